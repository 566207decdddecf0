//! Addresses of the hosts that flags name, looked up each time they are dialled, and kept on the
//! disk: while names cannot be looked up, what they meant last still counts. Nobody is stopped by a
//! DNS that is away, least of all the nodes that could bring its address back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use crate::cache;

/// The file in the state directory: a line for each name, with its addresses.
const FILE: &str = "names";
/// How long a look-up is waited for; a resolver that hears nothing takes half a minute.
const PATIENCE: Duration = Duration::from_secs(2);
/// Addresses of one name that are kept.
const MOST: usize = 32;

/// Looks names up. Clones know the same.
#[derive(Debug, Clone)]
pub struct Names {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot look up {host}: {reason}")]
pub struct LookupError {
    host: String,
    reason: String,
}

type Lookup = Shared<BoxFuture<'static, Result<Vec<IpAddr>, String>>>;

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Vec<IpAddr>>,
    /// Look-ups whose outcome nobody has taken: who asks meanwhile, or later, waits for that one, so that
    /// a resolver that hangs has one question of each name.
    running: BTreeMap<String, Lookup>,
    /// Names whose kept addresses are used now.
    told: BTreeSet<String>,
}

impl Names {
    /// With what was kept in this directory. A file that cannot be read is as none.
    pub fn open(directory: &Path) -> Self {
        let known = match std::fs::read_to_string(directory.join(FILE)) {
            Ok(text) => parse(&text),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "ignoring the names on the disk");
                }
                BTreeMap::new()
            }
        };
        let state = State {
            known,
            ..State::default()
        };
        Self {
            directory: directory.to_owned(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Addresses of a host, at least one; a literal address is its own. Cancel safe.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        let outcome = self.wait_for(host, look_up).await;
        let (addresses, news) = self.settle(host, outcome)?;
        if let Some(text) = news {
            self.keep(text).await;
        }
        Ok(addresses)
    }

    /// Waits for the look-up that runs, or begins one. Cancel safe: it goes on for whoever asks next.
    async fn wait_for<F>(
        &self,
        host: &str,
        look_up: impl FnOnce(String) -> F,
    ) -> Result<Vec<IpAddr>, String>
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let lookup = {
            let running = &mut self.lock().running;
            let lookup = running
                .entry(host.to_owned())
                .or_insert_with(|| begin(look_up(host.to_owned())));
            lookup.clone()
        };
        let Ok(outcome) = tokio::time::timeout(PATIENCE, lookup.clone()).await else {
            return Err("no answer in time".to_owned());
        };
        let running = &mut self.lock().running;
        if running.get(host).is_some_and(|it| it.ptr_eq(&lookup)) {
            running.remove(host);
        }
        outcome
    }

    /// What counts after a look-up, and the text of the file if that changed.
    fn settle(
        &self,
        host: &str,
        outcome: Result<Vec<IpAddr>, String>,
    ) -> Result<(Vec<IpAddr>, Option<String>), LookupError> {
        let mut state = self.lock();
        match outcome {
            Ok(mut found) => {
                found.sort();
                found.dedup();
                found.truncate(MOST);
                if state.told.remove(host) {
                    tracing::info!(host, "the name is found again");
                }
                let is_new = state.known.get(host) != Some(&found);
                let text = is_new.then(|| {
                    state.known.insert(host.to_owned(), found.clone());
                    to_text(&state.known)
                });
                Ok((found, text))
            }
            Err(reason) => {
                let host = host.to_owned();
                let Some(kept) = state.known.get(&host).cloned() else {
                    return Err(LookupError { host, reason });
                };
                if state.told.insert(host.clone()) {
                    tracing::warn!(
                        host,
                        reason,
                        ?kept,
                        "cannot look up a name: using its last addresses"
                    );
                }
                Ok((kept, None))
            }
        }
    }

    async fn keep(&self, text: String) {
        let directory = self.directory.clone();
        let write = move || cache::replace_file(&directory, FILE, text.as_bytes());
        // It cannot panic, and is not cancelled.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(%error, "cannot keep the addresses of names on the disk");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes on whether somebody waits for it or not.
fn begin(look_up: impl Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static) -> Lookup {
    let task = tokio::spawn(look_up);
    let outcome = task.map(|outcome| match outcome {
        Ok(Ok(addresses)) if addresses.is_empty() => Err("it has no address".to_owned()),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    });
    outcome.boxed().shared()
}

async fn look_up(host: String) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Lines that are none are left out: the file only helps.
fn parse(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let host = words.next()?;
        let addresses: Vec<IpAddr> = words.filter_map(|word| word.parse().ok()).collect();
        (!addresses.is_empty()).then(|| (host.to_owned(), addresses))
    });
    lines.collect()
}

fn to_text(known: &BTreeMap<String, Vec<IpAddr>>) -> String {
    let lines = known.iter().map(|(host, addresses)| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{host} {}\n", addresses.join(" "))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        let parsed = texts.iter().map(|text| text.parse().expect("valid"));
        parsed.collect()
    }

    fn away() -> Result<Vec<IpAddr>, String> {
        Err("away".to_owned())
    }

    #[tokio::test]
    async fn a_literal_address_is_its_own() {
        let names = Names::open(Path::new("/nonexistent"));
        for (host, expected) in [("192.0.2.1", "192.0.2.1"), ("[2001:db8::1]", "2001:db8::1")] {
            assert_eq!(names.resolve(host).await, Ok(addresses(&[expected])));
        }
    }

    #[tokio::test]
    async fn what_a_name_meant_counts_while_it_cannot_be_looked_up_also_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let names = Names::open(directory.path());
        assert!(names.settle("ipam", away()).is_err());
        let found = addresses(&["2001:db8::1", "192.0.2.1"]);
        let sorted = addresses(&["192.0.2.1", "2001:db8::1"]);
        let (told, news) = names.settle("ipam", Ok(found.clone())).expect("found");
        assert_eq!(told, sorted);
        names.keep(news.expect("news")).await;
        let same = names.settle("ipam", Ok(found)).expect("found");
        assert_eq!(same, (sorted.clone(), None), "nothing to be written");
        for names in [names, Names::open(directory.path())] {
            assert_eq!(names.settle("ipam", away()), Ok((sorted.clone(), None)));
            assert!(names.settle("other", away()).is_err());
        }
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_has_one_question_of_each_name_whoever_gives_up() {
        let names = Names::open(Path::new("/nonexistent"));
        let begun = AtomicU32::new(0);
        let (answer, answered) = tokio::sync::watch::channel(false);
        let ask = || {
            names.wait_for("ipam", |_| {
                begun.fetch_add(1, Ordering::Relaxed);
                let mut answered = answered.clone();
                async move {
                    answered.wait_for(|it| *it).await.expect("answered");
                    Ok(addresses(&["192.0.2.1"]))
                }
            })
        };
        // Two give up; then two at once get the answer.
        assert_eq!(ask().now_or_never(), None);
        assert_eq!(ask().now_or_never(), None);
        let both = async { tokio::join!(ask(), ask()) };
        let tell = async { answer.send_replace(true) };
        let (both, _) = tokio::join!(both, tell);
        let found = Ok(addresses(&["192.0.2.1"]));
        assert_eq!(both, (found.clone(), found.clone()));
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_eq!(ask().await, found);
        assert_eq!(begun.load(Ordering::Relaxed), 2, "another question");
    }

    #[test]
    fn a_name_that_means_something_else_now_is_believed() {
        let names = Names::open(Path::new("/nonexistent"));
        for text in ["192.0.2.1", "192.0.2.2"] {
            let (told, news) = names.settle("ipam", Ok(addresses(&[text]))).expect("found");
            assert_eq!(told, addresses(&[text]));
            assert_eq!(news, Some(format!("ipam {text}\n")));
        }
        assert_eq!(
            names.settle("ipam", away()).expect("kept").0,
            addresses(&["192.0.2.2"])
        );
    }

    #[test]
    fn lines_that_are_none_are_left_out() {
        let text = "a 192.0.2.1 nonsense 192.0.2.2\n\nb\nc nonsense\n";
        let expected = BTreeMap::from([("a".to_owned(), addresses(&["192.0.2.1", "192.0.2.2"]))]);
        assert_eq!(parse(text), expected);
        assert_eq!(parse(&to_text(&expected)), expected);
    }
}
