//! Two interfaces: what becomes of one is no matter of the other.

use super::*;

const OTHER: u32 = 3;

fn on_other() -> Spot {
    Spot {
        interface: OTHER,
        ..SPOT
    }
}

fn open_other(table: &mut Table) {
    table.open(Port {
        index: OTHER,
        name: "eth1".to_owned(),
        mac: MacAddr(2, 0, 0, 0, 0, 3),
        link_local: None,
    });
}

#[test]
fn an_interface_that_goes_takes_no_note_of_another_one_along() {
    let (mut table, start) = table();
    open_other(&mut table);
    let both = [SPOT, on_other()];
    table.answer(&both, &Report::default(), start);
    table.set(&both, AddressDuty::Record, start);
    ask(&mut table, 1, start + ms(1));
    table.silence(&[on_other()]);
    assert_eq!(table.silence(&[SPOT]).report().answered.len(), 1);
}

#[test]
fn an_interface_that_comes_ends_no_notes_of_another_one() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &Report::default(), start);
    table.set(&[SPOT], AddressDuty::Record, start);
    ask(&mut table, 1, start + ms(1));
    open_other(&mut table);
    let both = [SPOT, on_other()];
    let at = start + ms(100);
    table.resume(&both, AddressDuty::Record, &BTreeSet::new(), at);
    assert_eq!(table.silence(&both).report().answered.len(), 1);
}

#[test]
fn what_is_held_from_one_interface_stays_when_another_one_goes_or_comes() {
    let (mut table, start) = table();
    open_other(&mut table);
    table.set(&[SPOT, on_other()], AddressDuty::Hold, start);
    ask(&mut table, 1, start + ms(1));
    table.silence(&[on_other()]);
    let none = BTreeSet::new();
    table.resume(&[SPOT, on_other()], AddressDuty::Hold, &none, start + ms(2));
    let answers = table.answer(&[SPOT, on_other()], &Report::default(), start + ms(3));
    assert_eq!(answered(&answers), [client(1)]);
}

#[test]
fn what_waits_for_the_end_of_probes_stays_when_another_interface_goes() {
    let (mut table, start) = table();
    open_other(&mut table);
    let first = Report {
        probing: [SPOT.address].into(),
        ..Report::default()
    };
    table.answer(&[SPOT, on_other()], &first, start);
    ask(&mut table, 1, start + ms(1));
    table.silence(&[on_other()]);
    let held = table.waiting.take_held(SPOT_ONLY.into_iter());
    assert_eq!(held.len(), 1);
}

const SPOT_ONLY: [IpAddr; 1] = [SPOT.address];
