//! A process that did not run for a while.

use super::*;

/// The process runs from here on, after it last did so many milliseconds ago.
fn resume(table: &mut Table, pause: u64, now: Instant) {
    let boot = ms(1_000_000);
    table.runs(now - ms(pause), boot);
    table.runs(now, boot + ms(pause));
}

#[test]
fn nothing_that_arrived_in_a_pause_is_answered_whoever_reads_it() {
    let (mut table, start) = table();
    table.answer(&[SPOT], &Report::default(), start);
    let at = start + ms(5_000);
    resume(&mut table, 3_000, at);
    let frame = request(client(1), ADDRESS).emit();
    let outcome = table.on_frame(ARP, &frame, at - ms(10), at);
    assert!(
        matches!(outcome, Outcome::Ignored(Ignored::Stale)),
        "{outcome:?}"
    );
    assert!(is_answered(&ask(&mut table, 1, at)));
}

#[test]
fn what_was_held_before_a_pause_is_answered_by_nobody_after_it() {
    let (mut table, start) = table();
    table.set(&[SPOT], AddressDuty::Hold, start);
    ask(&mut table, 1, start);
    resume(&mut table, 200, start + ms(200));
    ask(&mut table, 2, start + ms(200));
    assert_eq!(table.waiting.take_held([SPOT.address].into_iter()).len(), 2);

    ask(&mut table, 3, start + ms(210));
    resume(&mut table, 300, start + ms(510));
    ask(&mut table, 4, start + ms(520));
    let answers = table.answer(&[SPOT], &Report::default(), start + ms(530));
    assert_eq!(answered(&answers), [client(4)]);
}

#[test]
fn an_address_that_was_asked_for_before_a_pause_is_asked_for_anew() {
    let (mut table, start) = table();
    let report = Report {
        probing: [SPOT.address].into(),
        ..Report::default()
    };
    table.answer(&[SPOT], &report, start);
    for at in [0, 200, 400] {
        assert_eq!(table.due_probes(start + ms(at)).len(), 1, "{at}");
    }
    // Whoever has it answered meanwhile, and is not believed any more.
    let begun = start + ms(2_000);
    resume(&mut table, 1_550, begun);
    for at in [0, 200, 400] {
        assert_eq!(table.due_probes(begun + ms(at)).len(), 1, "{at}");
        assert!(!is_answered(&ask(&mut table, 1, begun + ms(at))));
    }
    table.due_probes(begun + ms(600));
    let free = table.take_free();
    let answers = table.answer_free(&free, begun + ms(600)).1;
    assert_eq!(answered(&answers), [client(1); 3]);
}
