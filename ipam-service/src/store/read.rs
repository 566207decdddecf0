//! Committed rows for lists, history and streams. Every call is one short read transaction.

use futures::TryStreamExt as _;
use std::path::Path;
use std::sync::Arc;

use pharos_proto::v1;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqlitePoolOptions, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::failures::Failures;
use super::plan::READS;
use super::sql::address_holders;
use super::sqlite::reader_options;
use crate::state::address::Address;
use crate::state::model::{Revision, Timestamp};

/// Why stored rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("reading the database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("reading the database: {0}")]
    Load(#[from] rusqlite::Error),
    /// A row is not what this program writes.
    #[error("a row of the database is damaged: {0}")]
    Corrupt(String),
    /// A row of the log is of a newer version of the service, which says that this one would not
    /// understand it.
    #[error(
        "revision {revision} was written by a newer version of ipam-service, and this one \
        cannot read it: upgrade (it needs log format {needs}, this is {READS})"
    )]
    Newer { revision: i64, needs: i64 },
}

impl ReadError {
    /// Says in which table it is.
    pub(super) fn in_table(self, table: &str) -> Self {
        match self {
            Self::Corrupt(what) => Self::Corrupt(format!("table {table}: {what}")),
            Self::Sql(_) | Self::Load(_) | Self::Newer { .. } => self,
        }
    }
}

/// Reads committed rows.
#[derive(Debug, Clone)]
pub struct Reader {
    /// To the file that has the database's name. Locked while a read begins, as that may open the file or its log.
    connections: Arc<RwLock<SqlitePool>>,
    pub(super) failures: Failures,
}

/// A reader with which nobody begins to read.
#[derive(Debug)]
pub(super) struct HeldReader(OwnedRwLockWriteGuard<SqlitePool>);

impl HeldReader {
    /// From now on everybody reads the file that has the database's name now.
    pub(super) async fn reopen(mut self, path: &Path) -> Result<(), sqlx::Error> {
        *self.0 = connect(path).await?;
        Ok(())
    }
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Whether there are more behind these.
    pub more: bool,
    /// Of the store when the page was read.
    pub revision: Revision,
}

/// Which allocations to list; empty means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllocationFilter {
    pub cluster: String,
    pub namespace: Option<String>,
    pub pool: String,
    pub space: String,
    /// Within `space`, which then must be set.
    pub address: Option<Address>,
    /// As on the wire; 0 means any.
    pub state: i32,
}

impl Reader {
    /// Waits for the reads that run and closes all connections; later reads fail.
    pub async fn close(&self) {
        let connections = self.connections.read().await.clone();
        connections.close().await;
    }

    pub(super) async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let connections = connect(path).await?;
        Ok(Self {
            connections: Arc::new(RwLock::new(connections)),
            failures: Failures::default(),
        })
    }

    /// Keeps reads from beginning, because the files behind the database's name are about to be
    /// others: a connection that is opened in the midst of that would find the one of this and the log
    /// of that. Reads that run go on where they are; the others wait until it is dropped.
    pub(super) async fn hold(&self) -> HeldReader {
        HeldReader(Arc::clone(&self.connections).write_owned().await)
    }

    /// A connection for one read.
    pub(super) async fn connection(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        let connections = self.connections.read().await;
        let mut connection = connections.acquire().await?;
        open_log(&mut connection).await?;
        Ok(connection)
    }

    /// A transaction for one read.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        let connections = self.connections.read().await;
        let mut transaction = connections.begin().await?;
        open_log(&mut transaction).await?;
        Ok(transaction)
    }

    /// Allocations by owner, after the owner `(cluster, namespace, name)`.
    pub async fn allocations(
        &self,
        filter: &AllocationFilter,
        after: Option<&(String, String, String)>,
        limit: u32,
    ) -> Result<Page<v1::Allocation>, ReadError> {
        self.counted(self.read_allocations(filter, after, limit))
            .await
    }

    async fn read_allocations(
        &self,
        filter: &AllocationFilter,
        after: Option<&(String, String, String)>,
        limit: u32,
    ) -> Result<Page<v1::Allocation>, ReadError> {
        let mut query = allocations_query(filter, after, limit);
        if filter.pool.is_empty() {
            return self.page(query, limit, |row| decode(row.try_get(0)?)).await;
        }
        // The query gives all that may come from the pool: as many are read as the page takes.
        let mut transaction = self.begin().await?;
        let revision = revision(&mut transaction).await?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut items: Vec<v1::Allocation> = Vec::new();
        let mut rows = query.build().fetch(&mut *transaction);
        while items.len() <= most
            && let Some(row) = rows.try_next().await?
        {
            let one: v1::Allocation = decode(row.try_get(0)?)?;
            let from_it = |pool: &v1::PoolRef| pool.name == filter.pool;
            if one.pool == filter.pool || one.pools.iter().any(from_it) {
                items.push(one);
            }
        }
        drop(rows);
        transaction.rollback().await?;
        let more = items.len() > most;
        items.truncate(most);
        Ok(Page {
            items,
            more,
            revision,
        })
    }

    /// Clusters by name, after `after`.
    pub async fn clusters(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<v1::Cluster>, ReadError> {
        self.counted(self.read_clusters(after, limit)).await
    }

    async fn read_clusters(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<v1::Cluster>, ReadError> {
        let mut query = QueryBuilder::<Sqlite>::new(CLUSTERS);
        query.push(" where name > ").push_bind(after.unwrap_or(""));
        query
            .push(" order by name limit ")
            .push_bind(i64::from(limit) + 1);
        self.page(query, limit, cluster).await
    }

    /// One cluster.
    pub async fn cluster(&self, name: &str) -> Result<Option<v1::Cluster>, ReadError> {
        self.counted(self.read_cluster(name)).await
    }

    async fn read_cluster(&self, name: &str) -> Result<Option<v1::Cluster>, ReadError> {
        let mut query = QueryBuilder::<Sqlite>::new(CLUSTERS);
        query.push(" where name = ").push_bind(name);
        let mut connection = self.connection().await?;
        let row = query.build().fetch_optional(&mut *connection).await?;
        row.map(|row| cluster(&row)).transpose()
    }

    async fn page<T>(
        &self,
        mut query: QueryBuilder<Sqlite>,
        limit: u32,
        read: impl Fn(&SqliteRow) -> Result<T, ReadError>,
    ) -> Result<Page<T>, ReadError> {
        let mut transaction = self.begin().await?;
        let revision = revision(&mut transaction).await?;
        let rows = query.build().fetch_all(&mut *transaction).await?;
        transaction.rollback().await?;
        page_of(&rows, limit, revision, read)
    }
}

/// SQLite opens the log by its name when a connection reads for the first time.
async fn open_log(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let any = sqlx::query("select 1 from meta");
    any.fetch_optional(connection).await.map(drop)
}

/// Connections that read. Lists and histories are short and cached; more than the cores of a
/// small machine bring nothing.
const READERS: u32 = 4;

async fn connect(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let pool = SqlitePoolOptions::new().max_connections(READERS);
    pool.connect_with(reader_options(path)).await
}

// === Queries. Their plans are asserted in the tests. ===

pub(super) fn allocations_query(
    filter: &AllocationFilter,
    after: Option<&(String, String, String)>,
    limit: u32,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new("select entry from allocation where true");
    if !filter.cluster.is_empty() {
        query.push(" and cluster = ").push_bind(&filter.cluster);
    }
    if let Some(namespace) = &filter.namespace {
        query.push(" and namespace = ").push_bind(namespace);
    }
    if !filter.pool.is_empty() {
        // The second address may come from another pool, which only the entry names. That the
        // entry contains the name is a first sieve; the reader looks closer.
        query.push(" and (pool = ").push_bind(&filter.pool);
        query.push(" or instr(entry, cast(").push_bind(&filter.pool);
        query.push(" as blob)) > 0)");
    }
    if !filter.space.is_empty() {
        query.push(" and space = ").push_bind(&filter.space);
    }
    if filter.state != 0 {
        query.push(" and state = ").push_bind(filter.state);
    }
    if let Some(address) = filter.address {
        query
            .push(" and id in (select allocation_id from ")
            .push(address_holders!())
            .push(" where space = ")
            .push_bind(&filter.space)
            .push(" and address = ")
            .push_bind(address.to_bytes().to_vec())
            .push(")");
    }
    if let Some((cluster, namespace, name)) = after {
        query
            .push(" and (cluster, namespace, name) > (")
            .push_bind(cluster);
        query.push(", ").push_bind(namespace);
        query.push(", ").push_bind(name).push(")");
    }
    query.push(" order by cluster, namespace, name limit ");
    let all = -1;
    query.push_bind(match filter.pool.is_empty() {
        true => i64::from(limit) + 1,
        false => all,
    });
    query
}

const CLUSTERS: &str = "select name, uid, inventory, create_time, revision,
    (select count(*) from allocation where allocation.cluster = cluster.name), last_seen
    from cluster";

fn cluster(row: &SqliteRow) -> Result<v1::Cluster, ReadError> {
    let inventory: i64 = row.try_get(2)?;
    let create_time = Timestamp(row.try_get(3)?);
    Ok(v1::Cluster {
        name: row.try_get(0)?,
        cluster_uid: row.try_get(1)?,
        create_time: Some(crate::api::convert_history::time_to_wire(create_time)),
        // Complete, reporting again, or new.
        authoritative: matches!(inventory, 0 | 3 | 4 | 6),
        allocations: unsigned(row.try_get(5)?)?,
        revision: unsigned(row.try_get(4)?)?,
        last_seen: match row.try_get(6)? {
            0 => None,
            micros => Some(crate::api::convert_history::time_to_wire(Timestamp(micros))),
        },
    })
}

/// One row more than `limit` was asked for, to know whether there are more.
pub(super) fn page_of<T>(
    rows: &[SqliteRow],
    limit: u32,
    revision: Revision,
    read: impl Fn(&SqliteRow) -> Result<T, ReadError>,
) -> Result<Page<T>, ReadError> {
    let limit = usize::try_from(limit).expect("32 bits fit");
    let items: Result<Vec<T>, ReadError> = rows.iter().take(limit).map(read).collect();
    Ok(Page {
        items: items?,
        more: rows.len() > limit,
        revision,
    })
}

pub(super) async fn revision(connection: &mut SqliteConnection) -> Result<Revision, ReadError> {
    let row = sqlx::query("select revision from meta where id = 1")
        .fetch_one(connection)
        .await?;
    unsigned(row.try_get(0)?)
}

pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, ReadError> {
    M::decode(bytes).map_err(|error| ReadError::Corrupt(error.to_string()))
}

pub(super) fn unsigned(number: i64) -> Result<u64, ReadError> {
    u64::try_from(number).map_err(|error| ReadError::Corrupt(error.to_string()))
}

/// Beyond what can exist, everything is in the past.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
