//! The subcommands.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use pharos_process::UsageError;

use crate::engine::wall_time;
use crate::state::change::{Change, Edit};
use crate::state::model::Cluster;
use crate::state::names::Name;
use crate::store::{
    self, BackupError, Batch, CheckError, From, Location, Logged, Missing, Origin, Restore,
    RestoreError, Store,
};

/// `ipam-service init`: makes a database. The clusters in `recover` are expected to report what
/// they hold before anybody is given an address.
pub(super) async fn init(location: &Location, recover: &[String]) -> anyhow::Result<()> {
    let clusters = cluster_names(recover)?;
    let now = wall_time();
    let mut store = Store::open(location, Missing::Create, now)
        .await
        .map_err(super::usage)?;
    // Without a decision it may be what an earlier attempt left that was cut short; served as it is
    // it would expect nobody.
    let unused = store.writer.load().await.context("init")?.revision == 0;
    if !store.created && (clusters.is_empty() || !unused) {
        return Err(UsageError(format!("{location} exists already")).into());
    }
    let origin = Arc::new(Origin {
        actor: "ipam-service init".to_owned(),
        ..Origin::default()
    });
    let changes = (1..).zip(&clusters).map(|(revision, name)| Logged {
        revision: Some(revision),
        change: Change::Cluster(Edit {
            before: None,
            after: Some(Arc::new(Cluster {
                revision,
                ..store::expected_cluster(name.clone(), now)
            })),
        }),
        origin: Arc::clone(&origin),
    });
    let batch = Batch {
        time: now,
        changes: changes.collect(),
        ..Batch::default()
    };
    store.writer.commit(&batch).await.context("init")?;
    tracing::info!(
        database = %location,
        store_id = %store.store_id,
        expected_clusters = clusters.len(),
        "database made"
    );
    Ok(())
}

/// `ipam-service check`: one line per problem on stderr; exit code 1 if there are any.
pub(super) async fn check(location: &Location) -> anyhow::Result<()> {
    let problems = match store::check(location).await {
        Ok(problems) => problems,
        Err(error @ (CheckError::Missing(_) | CheckError::NotOurs(_))) => {
            return Err(UsageError(error.to_string()).into());
        }
        Err(error @ CheckError::OtherSchema(..)) => return Err(error.into()),
        Err(error @ CheckError::Read(_)) => return Err(of_database(location, error.into())),
    };
    if problems.is_empty() {
        tracing::info!(database = %location, "the database is whole, and its tables agree");
        return Ok(());
    }
    for problem in &problems {
        tracing::error!(database = %location, problem, "the database is damaged");
    }
    anyhow::bail!(
        "{location}: {} problems{}, first: {}",
        problems.len(),
        if problems.len() == store::MOST_PROBLEMS {
            " or more"
        } else {
            ""
        },
        problems[0]
    )
}

/// `ipam-service backup`.
pub(super) async fn backup(location: &Location, to: &Path) -> anyhow::Result<()> {
    let backup = store::backup(location, to).await;
    let backup = backup.map_err(|error| of_database(location, of_backup(error)))?;
    tracing::info!(
        database = %location,
        file = %to.display(),
        store_id = %backup.store_id,
        revision = backup.revision,
        bytes = backup.bytes,
        "backup made"
    );
    Ok(())
}

/// `ipam-service restore`.
pub(super) async fn restore(
    location: &Location,
    from: &Path,
    force: bool,
    recover: &[String],
) -> anyhow::Result<()> {
    make(location, From::Backup(from), force, recover).await
}

/// `ipam-service export`.
pub(super) async fn export(
    location: &Location,
    to: Option<&Path>,
    beside: store::Beside,
) -> anyhow::Result<()> {
    let exported = store::export(location, to, beside).await;
    let exported = exported.map_err(|error| of_database(location, of_backup(error)))?;
    tracing::info!(
        database = %location,
        store_id = %exported.store_id,
        revision = exported.revision,
        rows = exported.rows,
        "exported"
    );
    Ok(())
}

/// `ipam-service import`.
pub(super) async fn import(
    location: &Location,
    from: &Path,
    recover: &[String],
) -> anyhow::Result<()> {
    make(location, From::Export(from), false, recover).await
}

async fn make(
    location: &Location,
    from: From<'_>,
    force: bool,
    recover: &[String],
) -> anyhow::Result<()> {
    let task = Restore {
        from,
        to: location,
        also_expected: &cluster_names(recover)?,
        move_aside: force,
        now: wall_time(),
    };
    let restored = store::restore(task).await.map_err(of_restore)?;
    if let Some(path) = &restored.moved_to {
        tracing::info!(path = %path.display(), "the database that was here is kept");
    }
    tracing::info!(
        database = %location,
        store_id = %restored.store_id,
        revision = restored.revision,
        expected_clusters = restored.expected,
        "database restored"
    );
    Ok(())
}

/// Says which database it is that cannot be read. A mistake of the person says so itself.
fn of_database(location: &Location, error: anyhow::Error) -> anyhow::Error {
    match error.is::<UsageError>() {
        true => error,
        false => error.context(location.to_string()),
    }
}

/// What a person can put right without reading code is a mistake in how the program was started.
fn of_backup(error: BackupError) -> anyhow::Error {
    match error {
        BackupError::Source(CheckError::Missing(_) | CheckError::NotOurs(_))
        | BackupError::Exists(_)
        | BackupError::Full(_)
        | BackupError::File { .. } => UsageError(error.to_string()).into(),
        BackupError::Source(CheckError::Read(_) | CheckError::OtherSchema(..))
        | BackupError::Export(_)
        | BackupError::Sql(_)
        | BackupError::Damaged(_) => error.into(),
    }
}

fn of_restore(error: RestoreError) -> anyhow::Error {
    match error {
        RestoreError::Copy(error) => of_backup(error),
        RestoreError::Open(error) => super::usage(error),
        RestoreError::Source(CheckError::Missing(_) | CheckError::NotOurs(_))
        | RestoreError::Damaged { .. }
        | RestoreError::Import { .. }
        | RestoreError::Contradicts { .. }
        | RestoreError::Exists(_)
        | RestoreError::Written(_)
        | RestoreError::File { .. } => UsageError(error.to_string()).into(),
        RestoreError::Source(CheckError::Read(_) | CheckError::OtherSchema(..))
        | RestoreError::Sql(_)
        | RestoreError::Read(_)
        | RestoreError::Commit(_) => error.into(),
    }
}

fn cluster_names(texts: &[String]) -> Result<BTreeSet<Name>, UsageError> {
    let names = texts.iter().map(|text| {
        Name::parse(text).map_err(|error| UsageError(format!("--recover: cluster name {error}")))
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[tokio::test]
    async fn an_attempt_to_recover_that_was_cut_short_can_be_repeated_until_it_succeeds() {
        let folder = Folder::new();
        let location = folder.location();
        drop(folder.open().await);
        let recover = ["east".to_owned()];
        init(&location, &recover).await.expect("it is unused");
        let rows = folder.open().await.writer.load().await.expect("readable");
        assert_eq!((rows.revision, rows.rows.len()), (1, 1));
        for recover in [&recover[..], &[]] {
            let again = init(&location, recover).await.expect_err("in use");
            assert!(again.to_string().contains("exists already"), "{again}");
        }
    }
}
