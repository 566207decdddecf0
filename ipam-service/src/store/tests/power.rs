//! A loss of power between steps: what may be left of the files of a database.

use std::collections::BTreeMap;

use super::super::files::beside;
use super::super::step::Step;
use crate::testing::Folder;

/// Files by what their names go on with behind that of the database.
pub(super) type Files = BTreeMap<&'static str, Vec<u8>>;

/// Those of them that there are.
pub(super) fn files_of(folder: &Folder, suffixes: &[&'static str]) -> Files {
    let read = |suffix| Some((suffix, std::fs::read(beside(&folder.file(), suffix)).ok()?));
    suffixes.iter().copied().filter_map(read).collect()
}

/// What is left of `files` after some steps.
pub(super) fn after(files: &Files, steps: impl Fn(&Folder) -> Vec<Step>) -> Folder {
    let folder = Folder::new();
    for (suffix, bytes) in files {
        std::fs::write(beside(&folder.file(), suffix), bytes).expect("written");
    }
    for step in steps(&folder) {
        step.perform().expect("possible");
    }
    folder
}

/// The outcomes of a loss of power after so many steps: what was synced was done, and of what came
/// later any part.
pub(super) fn outcomes(steps: &[Step]) -> Vec<Vec<usize>> {
    let is_sync = |step: &Step| matches!(step, Step::Sync(_));
    let durable = steps.iter().rposition(is_sync).map_or(0, |last| last + 1);
    let mut outcomes = vec![(0..durable).collect::<Vec<usize>>()];
    for late in durable..steps.len() {
        let mut also = outcomes.clone();
        also.iter_mut().for_each(|done| done.push(late));
        outcomes.append(&mut also);
    }
    outcomes
}
