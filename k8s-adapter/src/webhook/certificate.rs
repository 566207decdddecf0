//! The adapter's own certificate: each replica makes one for itself, and keeps its key in memory. It is
//! shown only when API servers trust it, and the former one is trusted for as long as it is shown.
//! Time is an argument, in seconds since 1970.

use std::collections::BTreeSet;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::bundle::COMMON_NAME;
use super::tls::{CertificateError, Identity};

/// How far the clock of an API server may be behind.
const SKEW: i64 = 60 * 60;
/// How long API servers may take to see a bundle that was changed. They watch it.
const SETTLE: i64 = 5;

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Use(#[from] CertificateError),
}

/// A certificate of our own.
#[derive(Debug, Clone)]
pub struct Made {
    names: BTreeSet<String>,
    made: i64,
    /// What API servers have to trust.
    pub der: CertificateDer<'static>,
    pub identity: Identity,
}

impl Made {
    /// For these names, DNS or IP, and so many seconds.
    pub fn new(
        replica: &str,
        names: &BTreeSet<String>,
        now: i64,
        life: i64,
    ) -> Result<Self, MakeError> {
        let mut parameters = CertificateParams::new(Vec::from_iter(names.iter().cloned()))?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, COMMON_NAME);
        // Tells the certificates of replicas apart.
        subject.push(DnType::OrganizationName, replica);
        parameters.distinguished_name = subject;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let at = |seconds: i64| {
            let since = std::time::Duration::from_secs(seconds.try_into().unwrap_or_default());
            date_time_ymd(1970, 1, 1) + since
        };
        parameters.not_before = at(now - SKEW);
        parameters.not_after = at(now + life);
        let key = KeyPair::generate()?;
        let der = parameters.self_signed(&key)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok(Self {
            names: names.clone(),
            made: now,
            identity: Identity::new(vec![der.clone()], key)?,
            der,
        })
    }

    /// After two thirds of its time.
    fn renewal(&self) -> i64 {
        self.made + (self.identity.not_after - self.made) * 2 / 3
    }
}

/// The certificate that is shown, and the one that will be.
#[derive(Debug, Default)]
pub struct Keeper {
    shown: Option<Made>,
    next: Option<Made>,
    /// Since when every API server may trust `next`.
    trusted: Option<i64>,
    first: First,
}

/// Whether what was shown first is trusted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum First {
    #[default]
    Untrusted,
    /// Every API server may trust it since then.
    Since(i64),
    /// Every API server trusted it once.
    Settled,
}

impl Keeper {
    /// Whether another one has to be made, for these names.
    pub fn is_due(&self, names: &BTreeSet<String>, now: i64) -> bool {
        let newest = self.next.as_ref().or(self.shown.as_ref());
        newest.is_none_or(|made| {
            // Before it was made the clock was ahead, and nobody takes it yet.
            made.names != *names || now < made.made || now >= made.renewal()
        })
    }

    /// One that was made. The first is shown at once, as there is nothing to lose.
    pub fn put(&mut self, made: Made) {
        if self.shown.is_none() {
            self.shown = Some(made);
        } else {
            self.next = Some(made);
            self.trusted = None;
        }
    }

    /// What was put is in every bundle, or is not.
    pub fn is_trusted(&mut self, trusted: bool, now: i64) {
        let since = self.trusted.unwrap_or(now);
        self.trusted = Some(since).filter(|_| trusted && self.next.is_some());
        self.first = match (self.first, trusted) {
            (First::Untrusted, true) => First::Since(now),
            (First::Since(_), false) => First::Untrusted,
            (first @ (First::Untrusted | First::Since(_) | First::Settled), _) => first,
        };
    }

    /// Whether API servers trusted this replica once. Until then it is asked in vain.
    pub fn is_believed(&mut self, now: i64) -> bool {
        if let First::Since(since) = self.first
            && now >= since + SETTLE
        {
            self.first = First::Settled;
        }
        self.first == First::Settled
    }

    /// What is to be shown now. Takes the turn of the next one when that is trusted for long enough.
    pub fn shown(&mut self, now: i64) -> Option<&Made> {
        if self.trusted.is_some_and(|since| now >= since + SETTLE) {
            self.shown = self.next.take();
            self.trusted = None;
        }
        self.shown.as_ref()
    }

    /// What API servers have to trust.
    pub fn wanted(&self) -> Vec<&CertificateDer<'static>> {
        let both = self.shown.iter().chain(&self.next);
        both.map(|made| &made.der).collect()
    }

    /// When something is to be done next, if nothing happens.
    pub fn wakes(&self) -> Option<i64> {
        let turn = self.trusted.map(|since| since + SETTLE);
        let first = match self.first {
            First::Since(since) => Some(since + SETTLE),
            First::Untrusted | First::Settled => None,
        };
        let newest = self.next.as_ref().or(self.shown.as_ref());
        let renewal = newest.map(Made::renewal);
        [turn, first, renewal].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: i64 = 3000;

    fn names(name: &str) -> BTreeSet<String> {
        BTreeSet::from([name.to_owned()])
    }

    fn made(name: &str, now: i64) -> Made {
        Made::new("replica", &names(name), now, LIFE).unwrap()
    }

    fn shown(keeper: &mut Keeper, now: i64) -> CertificateDer<'static> {
        keeper.shown(now).expect("one is shown").der.clone()
    }

    #[test]
    fn a_certificate_is_shown_only_while_it_is_trusted_and_there_is_always_one() {
        let start = 1_800_000_000;
        let mut keeper = Keeper::default();
        assert!(keeper.shown(start).is_none() && keeper.wakes().is_none());
        assert!(keeper.is_due(&names("a"), start));
        let first = made("a", start);
        keeper.put(first.clone());
        assert_eq!(shown(&mut keeper, start), first.der);
        assert_eq!(keeper.wakes(), Some(start + LIFE * 2 / 3));

        let renewal = start + LIFE * 2 / 3;
        assert!(!keeper.is_due(&names("a"), start));
        assert!(keeper.is_due(&names("a"), start - 1), "the clock was ahead");
        assert!(!keeper.is_due(&names("a"), renewal - 1));
        assert!(keeper.is_due(&names("a"), renewal));
        let second = made("a", renewal);
        keeper.put(second.clone());
        assert!(
            !keeper.is_due(&names("a"), renewal),
            "one is made at a time"
        );
        assert_eq!(keeper.wanted(), [&first.der, &second.der]);
        // It is in no bundle yet, however long that takes.
        assert_eq!(shown(&mut keeper, renewal + SETTLE * 9), first.der);
        keeper.is_trusted(true, renewal + 50);
        keeper.is_trusted(true, renewal + 52);
        assert_eq!(keeper.wakes(), Some(renewal + 50 + SETTLE));
        // Somebody overwrites the bundle: it counts from when it is restored.
        keeper.is_trusted(false, renewal + 53);
        assert_eq!(shown(&mut keeper, renewal + 60), first.der);
        keeper.is_trusted(true, renewal + 61);
        assert_eq!(shown(&mut keeper, renewal + 61), first.der);
        assert_eq!(shown(&mut keeper, renewal + 61 + SETTLE), second.der);
        assert_eq!(keeper.wanted(), [&second.der]);
        assert_eq!(shown(&mut keeper, renewal + 500), second.der);
    }

    #[test]
    fn a_replica_is_believed_once_its_first_certificate_was_trusted_for_a_while() {
        let start = 1_800_000_000;
        let mut keeper = Keeper::default();
        keeper.put(made("a", start));
        keeper.is_trusted(false, start);
        assert!(!keeper.is_believed(start + SETTLE * 9));
        keeper.is_trusted(true, start + 50);
        assert_eq!(keeper.wakes(), Some(start + 50 + SETTLE));
        assert!(!keeper.is_believed(start + 50 + SETTLE - 1));
        // Somebody overwrote the bundle before all had seen it.
        keeper.is_trusted(false, start + 51);
        keeper.is_trusted(true, start + 52);
        assert!(!keeper.is_believed(start + 50 + SETTLE));
        assert!(keeper.is_believed(start + 52 + SETTLE));
        assert_eq!(keeper.wakes(), Some(start + LIFE * 2 / 3));
        // Later it is restored at once, and the others do not wait for that.
        keeper.is_trusted(false, start + 100);
        assert!(keeper.is_believed(start + 100));
    }

    #[test]
    fn other_names_need_another_certificate() {
        let mut keeper = Keeper::default();
        keeper.put(made("a", 1_800_000_000));
        assert!(keeper.is_due(&names("b"), 1_800_000_001));
        keeper.put(made("b", 1_800_000_001));
        assert!(!keeper.is_due(&names("b"), 1_800_000_002));
    }

    #[test]
    fn it_is_for_its_names_and_its_time() {
        use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
        let both = BTreeSet::from(["127.0.0.1".to_owned(), "a.b.svc".to_owned()]);
        let made = Made::new("r", &both, 1_800_000_000, LIFE).unwrap();
        let (_, found) = X509Certificate::from_der(&made.der).unwrap();
        let names = found.subject_alternative_name().unwrap().expect("names");
        let names = &names.value.general_names;
        assert!(
            names.contains(&GeneralName::DNSName("a.b.svc")),
            "{names:?}"
        );
        assert!(
            names.contains(&GeneralName::IPAddress(&[127, 0, 0, 1])),
            "{names:?}"
        );
        assert_eq!(found.validity().not_after.timestamp(), 1_800_000_000 + LIFE);
        assert_eq!(
            found.validity().not_before.timestamp(),
            1_800_000_000 - SKEW
        );
        assert_eq!(made.identity.not_after, 1_800_000_000 + LIFE);
    }
}
