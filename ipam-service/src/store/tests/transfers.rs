//! Exports, and what is imported from them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{
    Batch, Beside, From, Location, Restore, RestoreError, Restored, backup, check, export, restore,
};
use super::backups::{AHEAD, some_book};
use crate::state::State;
use crate::state::announce::Announcements;
use crate::state::command::{Command, Fact};
use crate::state::model::{Announcer, NodeKey, OwnerKey, Timestamp};
use crate::state::names::Name;
use crate::testing::{Folder, advertisement, allocate};

async fn import(from: &Path, to: &Location) -> Result<Restored, RestoreError> {
    let task = Restore {
        from: From::Export(from),
        to,
        also_expected: &BTreeSet::new(),
        move_aside: false,
        now: Timestamp(9_000_000),
    };
    restore(task).await
}

fn beside(history: bool) -> Beside {
    Beside {
        history,
        passwords: history,
    }
}

/// Lines by kind, without order.
fn lines(path: &Path) -> BTreeMap<String, Vec<Value>> {
    let text = std::fs::read_to_string(path).expect("a file");
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let kind = value["type"].as_str().expect("a type").to_owned();
        kinds.entry(kind).or_default().push(value);
    }
    for values in kinds.values_mut() {
        values.sort_by_key(ToString::to_string);
    }
    kinds
}

#[tokio::test]
async fn what_is_imported_is_row_by_row_what_was_exported_with_and_without_history() {
    let folder = Folder::new();
    let mut book = some_book(&folder).await;
    book.commit(&allocate("east/ns/labelled", |wire| {
        wire.labels = [("a", "1"), ("b", "\u{fc} \" \\")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    }))
    .await;
    let (revision, held) = (book.state.revision(), book.held());
    for history in [true, false] {
        let file = folder.file().with_file_name(format!("{history}.jsonl"));
        let exported = export(&folder.location(), Some(&file), beside(history)).await;
        let exported = exported.expect("exported");
        assert_eq!(exported.revision, revision);
        let before = lines(&file);
        assert_eq!(before["allocation"].len(), held.len());
        let addresses: usize = held.iter().map(|one| one.addresses.len()).sum();
        assert_eq!(before["held_address"].len(), addresses, "what is held");
        let entry = &before["allocation"][0]["entry"];
        assert!(entry["owner"]["cluster"].is_string(), "readable: {entry}");
        assert_eq!(before.contains_key("change_log"), history);

        let other = Folder::new();
        let imported = import(&file, &other.location()).await.expect("imported");
        assert_eq!(
            imported.revision,
            revision + AHEAD + 2,
            "two clusters are expected"
        );
        assert_eq!(check(&other.location()).await.expect("checked"), [""; 0]);
        let again = folder
            .file()
            .with_file_name(format!("{history}-again.jsonl"));
        export(&other.location(), Some(&again), beside(history))
            .await
            .expect("exported");
        let mut after = lines(&again);
        // It is another store, and expects its clusters.
        for kind in ["header", "end", "meta", "cluster"] {
            let line = before[kind].clone();
            assert_eq!(
                after.insert(kind.to_owned(), line).map(|it| it.len()),
                Some(before[kind].len())
            );
        }
        if let Some(log) = after.get_mut("change_log") {
            log.retain(|line| line["revision"].as_u64().is_some_and(|it| it <= revision));
        }
        assert_eq!(after, before);
        let mut store = other.open().await;
        let loaded = store.writer.load().await.expect("readable");
        let state = State::restore(loaded.revision, loaded.rows);
        assert!(state.is_recovering());
        let now: Vec<_> = state.allocations().cloned().collect();
        assert_eq!(now, held);
        store
            .writer
            .commit(&Batch::default())
            .await
            .expect("it can be written");
    }
    book.close().await;
}

/// Otherwise the first owner behind an import would ask for an address that its clients are using.
#[tokio::test]
async fn what_was_announced_once_is_not_asked_for_again_behind_an_import() {
    let folder = Folder::new();
    let mut book = some_book(&folder).await;
    let east = Name::parse("east").expect("a name");
    let all = advertisement("east/all");
    book.commit(&Command::ApplyAdvertisement(Box::new(all)))
        .await;
    let announcer = Fact::Announcer {
        key: NodeKey {
            cluster: east.clone(),
            node: Name::parse("n1").expect("a name"),
        },
        announcer: Announcer {
            labels: BTreeMap::new(),
            member_endpoint: String::new(),
            features: BTreeSet::new(),
        },
    };
    let facts = |facts| Command::Facts {
        cluster: east.clone(),
        facts,
    };
    book.commit(&facts(vec![announcer])).await;
    let (_, lists) = Announcements::rebuild(&book.state);
    book.commit_facts(lists).await;
    let a = OwnerKey {
        cluster: east.clone(),
        namespace: Some(Name::parse("ns").expect("a name")),
        name: Name::parse("a").expect("a name"),
    };
    let a = book.state.allocation(&a).expect("held").clone();
    let announced = Fact::Announced {
        group: a.id,
        addresses: a.addresses.iter().copied().collect(),
    };
    book.commit(&facts(vec![announced])).await;

    let probed = |state: &State| {
        let (announcements, _) = Announcements::rebuild(state);
        let east = announcements.cluster("east").expect("known");
        let assigned = east.assignments();
        assigned
            .map(|one| (one.group == a.id, one.probe))
            .collect::<BTreeSet<_>>()
    };
    let expected = BTreeSet::from([(true, false), (false, true)]);
    assert_eq!(probed(&book.state), expected);
    let file = folder.file().with_file_name("announced.jsonl");
    let exported = export(&folder.location(), Some(&file), beside(false)).await;
    exported.expect("exported");
    let other = Folder::new();
    import(&file, &other.location()).await.expect("imported");
    let mut store = other.open().await;
    let loaded = store.writer.load().await.expect("readable");
    let state = State::restore(loaded.revision, loaded.rows);
    assert_eq!(probed(&state), expected);
    book.close().await;
}

/// A book, and its export with the history: the file, and what it says.
async fn whole_export() -> (Folder, PathBuf, String) {
    let folder = Folder::new();
    drop(some_book(&folder).await);
    let file = folder.file().with_file_name("whole.jsonl");
    export(&folder.location(), Some(&file), beside(true))
        .await
        .expect("exported");
    let text = std::fs::read_to_string(&file).expect("a file");
    (folder, file, text)
}

#[tokio::test]
async fn a_bad_line_is_told_by_its_number_and_nothing_is_written() {
    let (folder, _file, whole) = whole_export().await;
    let lines: Vec<&str> = whole.lines().collect();
    let with = |index: usize, line: &str| {
        let mut lines = lines.clone();
        lines[index] = line;
        lines.join("\n") + "\n"
    };
    let held = lines
        .iter()
        .position(|line| line.contains(r#""type":"held_address""#));
    let held = held.expect("an address");
    let pool = lines
        .iter()
        .position(|line| line.contains(r#""type":"pool""#))
        .expect("a pool");
    let cases = [
        (String::new(), "line 1: the last line is missing"),
        ("{}\n".to_owned(), "line 1: it has no type"),
        (
            with(0, r#"{"type":"header","format":2}"#),
            "line 1: its format is not 1",
        ),
        (
            with(0, r#"{"type":"header","format":1,"schema":999}"#),
            "line 1: it was written by a newer",
        ),
        (with(pool, "nonsense"), "expected"),
        (
            with(pool, r#"{"type":"flower"}"#),
            "unknown type \"flower\"",
        ),
        (
            with(pool, r#"{"type":"sqlite_schema"}"#),
            "unknown type \"sqlite_schema\"",
        ),
        (
            with(
                pool,
                &lines[pool].replace("\"cluster\":\"\"", "\"clutser\":\"\""),
            ),
            "unknown field \"clutser\"",
        ),
        (
            with(pool, &lines[pool].replace("\"addresses\"", "\"adresses\"")),
            "entry: ",
        ),
        (
            with(pool, r#"{"type":"end","rows":1}"#),
            "rows came, and it tells of",
        ),
        (
            lines[..lines.len() - 1].join("\n") + "\n",
            "the last line is missing",
        ),
        (whole.trim_end().to_owned(), "it has no end"),
        (
            whole.clone() + lines[pool] + "\n",
            "it comes after the last",
        ),
        (with(held, lines[pool]), "UNIQUE constraint"),
    ];
    for (text, expected) in cases {
        let bad = folder.file().with_file_name("bad.jsonl");
        std::fs::write(&bad, text).expect("written");
        let other = Folder::new();
        let refused = import(&bad, &other.location()).await.expect_err(expected);
        let message = refused.to_string();
        assert!(
            message.contains("line ") && message.contains(expected),
            "{expected}: {message}"
        );
        assert!(!other.file().exists(), "{expected}");
    }
    // Lines that are well formed and contradict each other: the holder of an address is left out.
    let kept = lines
        .iter()
        .filter(|line| !line.contains(r#""group_key":"a"#));
    let mut kept: Vec<String> = kept.map(|line| (*line).to_owned()).collect();
    let rows = kept.len() - 2;
    *kept.last_mut().expect("the end") = format!(r#"{{"type":"end","rows":{rows}}}"#);
    let bad = folder.file().with_file_name("bad.jsonl");
    std::fs::write(&bad, kept.join("\n") + "\n").expect("written");
    let other = Folder::new();
    let refused = import(&bad, &other.location())
        .await
        .expect_err("a contradiction");
    assert!(
        matches!(refused, RestoreError::Contradicts { .. }),
        "{refused}"
    );
    assert!(!other.file().exists());
    // A backup is no export, and an export no backup.
    let copy = folder.file().with_file_name("copy.db");
    backup(&folder.location(), &copy).await.expect("a backup");
    import(&copy, &other.location())
        .await
        .expect_err("no lines");
}

/// An older version had a row per holder and per port also where somebody holds an address alone, said
/// of which addresses each decision tells, and not which one ended an allocation.
#[tokio::test]
async fn an_export_of_an_older_version_is_taken_in() {
    let (_folder, file, text) = whole_export().await;
    let read = |line| serde_json::from_str::<Value>(line).expect("JSON");
    let mut lines: Vec<Value> = text.lines().map(read).collect();
    lines[0]["schema"] = 7.into();
    let mut end = lines.pop().expect("the end");
    let mut sole = 0;
    for line in lines.clone() {
        let group = line["group_key"].as_str().unwrap_or_default();
        let Some(id) = group
            .strip_prefix('a')
            .filter(|_| line["type"] == "held_address")
        else {
            continue;
        };
        let id: u64 = id.parse().expect("an id");
        let mut address = line.clone();
        address["type"] = "allocation_address".into();
        address["allocation_id"] = id.into();
        lines.push(address);
        lines.push(serde_json::json!({
            "type": "allocation_port", "space": line["space"], "address": line["address"],
            "protocol": 6, "port": 80, "allocation_id": id,
        }));
        sole += 1;
    }
    assert!(sole > 0);
    let mut ended = Vec::new();
    for line in &mut lines {
        if line["type"] == "former_owner" {
            let fields = line.as_object_mut().expect("an object");
            ended.extend(fields.remove("end_revision"));
        }
    }
    lines.push(serde_json::json!({
        "type": "change_address", "space": "default", "address": "192.0.2.1", "revision": 2,
    }));
    end["rows"] = (lines.len() - 1).into();
    lines.push(end);
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    std::fs::write(&file, lines.join("\n") + "\n").expect("written");
    let other = Folder::new();
    import(&file, &other.location()).await.expect("imported");
    assert_eq!(check(&other.location()).await.expect("checked"), [""; 0]);
    let database = rusqlite::Connection::open(other.file()).expect("a database");
    let ends = "select end_revision from former_owner order by 1";
    let mut statement = database.prepare(ends).expect("good SQL");
    let rows = statement.query_map((), |row| row.get::<_, i64>(0));
    let found = rows.expect("rows").map(|row| row.expect("a row"));
    let found: Vec<Value> = found.map(Value::from).collect();
    assert!(!found.is_empty());
    ended.sort_by_key(Value::as_i64);
    assert_eq!(found, ended);
}
