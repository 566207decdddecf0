//! The report for people.

use std::fmt::Write as _;

use super::report::{Remark, Report, Weight};
use super::services::{Fate, Row};

/// The whole report; ends with a line feed.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    services(&report.services, &mut out);
    for (title, weight) in [
        ("To be cured first", Weight::Blocks),
        ("To be done, or to be known", Weight::Attention),
    ] {
        remarks(title, report.remarks_of(weight), &mut out);
    }
    out.push('\n');
    out.push_str(&conclusion(report));
    out.push('\n');
    out
}

fn head(report: &Report, out: &mut String) {
    let known = |text: &str| if text.is_empty() { "not known" } else { text }.to_owned();
    let book = &report.address_book;
    let said = match (book.version.as_str(), book.unknown.as_str()) {
        (version, "") => format!("{version} at {}", book.url),
        (_, why) => format!("not asked, at {}: {why}", book.url),
    };
    let mut lines = vec![
        ["cluster".to_owned(), report.cluster.clone()],
        ["namespace".to_owned(), report.namespace.clone()],
        ["Kubernetes".to_owned(), known(&report.kubernetes)],
        [
            "MetalLB".to_owned(),
            format!("{}, BGP mode {}", known(&report.metallb), report.bgp_mode),
        ],
        ["ipam-service".to_owned(), said],
    ];
    if let Some(backup) = &report.backup {
        lines.push(["backup".to_owned(), backup.clone()]);
    }
    out.push_str(&aligned(&lines));
    out.push('\n');
}

fn services(rows: &[Row], out: &mut String) {
    if rows.is_empty() {
        out.push_str("There are no Services of type LoadBalancer.\n");
        return;
    }
    let list = |addresses: &[String]| match addresses {
        [] => "-".to_owned(),
        some => some.join(","),
    };
    let title = ["SERVICE", "BEFORE", "AFTER", "POOL", ""].map(str::to_owned);
    let lines = rows.iter().map(|row| {
        let pool = if row.pool.is_empty() { "-" } else { &row.pool };
        let mut fate = fate(row.fate).to_owned();
        if !row.why.is_empty() {
            let _ = write!(fate, ": {}", row.why);
        }
        let (before, after) = (list(&row.before), list(&row.after));
        [row.service.clone(), before, after, pool.to_owned(), fate]
    });
    let lines: Vec<_> = std::iter::once(title).chain(lines).collect();
    out.push_str(&aligned(&lines));
}

fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Unchanged => "unchanged",
        Fate::Gains => "gains an address",
        Fate::Waits => "waits",
        Fate::OtherClass => "not served, as before",
        Fate::Changes => "CHANGES",
        Fate::Loses => "LOSES ITS ADDRESS",
        Fate::NotHeld => "CANNOT BE TAKEN OVER",
        Fate::NotKnown => "NOT KNOWN",
    }
}

fn remarks<'a>(title: &str, remarks: impl Iterator<Item = &'a Remark>, out: &mut String) {
    for (index, remark) in remarks.enumerate() {
        if index == 0 {
            // A String takes whatever is written to it.
            let _ = writeln!(out, "\n{title}:");
        }
        let _ = writeln!(out, "- {}: {}", remark.object, remark.message);
    }
}

fn conclusion(report: &Report) -> String {
    let all = report.services.len();
    let unchanged = report.count(Fate::Unchanged);
    let counted = format!("{unchanged} of {all} Services are unchanged");
    let others: Vec<String> = [
        (Fate::Gains, "gain an address"),
        (Fate::Waits, "wait for one, as before"),
        (Fate::OtherClass, "are of another class"),
    ]
    .iter()
    .map(|(fate, words)| (report.count(*fate), words))
    .filter(|(count, _)| *count > 0)
    .map(|(count, words)| format!("{count} {words}"))
    .collect();
    let counted = [vec![counted], others].concat().join(", ");
    match (report.obstacle(), report.applied) {
        (Some(why), _) => format!("{counted}. Not to be migrated yet: {why}."),
        (None, true) => format!("{counted}. ipam-service holds the addresses; now the cut-over."),
        (None, false) => format!("{counted}. Nothing was changed (without --apply)."),
    }
}

/// Columns side by side, two blanks apart; nothing follows the last.
fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}
