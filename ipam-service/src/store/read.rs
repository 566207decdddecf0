//! Committed rows for lists, history and streams. Every call is one short read transaction.

use futures::TryStreamExt as _;
use pharos_proto::v1;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection, SqlitePool};

use crate::state::address::Address;
use crate::state::model::{Revision, Timestamp};

/// Why stored rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("reading the database: {0}")]
    Sql(#[from] sqlx::Error),
    /// A row is not what this program writes.
    #[error("a row of the database is damaged: {0}")]
    Corrupt(String),
}

impl ReadError {
    /// Says in which table it is.
    pub(super) fn in_table(self, table: &str) -> Self {
        match self {
            Self::Corrupt(what) => Self::Corrupt(format!("table {table}: {what}")),
            Self::Sql(error) => Self::Sql(error),
        }
    }
}

/// Reads committed rows.
#[derive(Debug, Clone)]
pub struct Reader {
    connections: SqlitePool,
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

/// Which decisions to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeFilter {
    /// Address space and address held before or after the decision.
    pub address: Option<(String, Address)>,
    /// Cluster, namespace, name of the owner; namespace and name may be absent.
    pub owner: Option<(String, Option<String>, Option<String>)>,
    /// At or after.
    pub start: Option<Timestamp>,
    /// Before.
    pub end: Option<Timestamp>,
}

/// What the log covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSpan {
    /// Lowest revision from which the log has no gap; one more than `revision` when there is none.
    pub oldest: Revision,
    /// Of the store.
    pub revision: Revision,
}

/// Decisions on allocations, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPart {
    pub changes: Vec<v1::Change>,
    /// Everything up to this revision has been looked at.
    pub up_to: Revision,
}

impl Reader {
    /// Waits for the reads that run and closes all connections; later reads fail.
    pub async fn close(&self) {
        self.connections.close().await;
    }

    pub(super) fn new(connections: SqlitePool) -> Self {
        Self { connections }
    }

    /// Allocations by owner, after the owner `(cluster, namespace, name)`.
    pub async fn allocations(
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
        let mut transaction = self.connections.begin().await?;
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
        let mut query = QueryBuilder::<Sqlite>::new(CLUSTERS);
        query.push(" where name > ").push_bind(after.unwrap_or(""));
        query
            .push(" order by name limit ")
            .push_bind(i64::from(limit) + 1);
        self.page(query, limit, cluster).await
    }

    /// One cluster.
    pub async fn cluster(&self, name: &str) -> Result<Option<v1::Cluster>, ReadError> {
        let mut query = QueryBuilder::<Sqlite>::new(CLUSTERS);
        query.push(" where name = ").push_bind(name);
        let row = query.build().fetch_optional(&self.connections).await?;
        row.map(|row| cluster(&row)).transpose()
    }

    /// Decisions, newest first, before the revision `before`.
    pub async fn changes(
        &self,
        filter: &ChangeFilter,
        before: Option<Revision>,
        limit: u32,
    ) -> Result<Page<v1::Change>, ReadError> {
        let mut transaction = self.connections.begin().await?;
        let revision = revision(&mut transaction).await?;
        let mut first = 0;
        let mut end = before.map_or(i64::MAX, signed);
        // Log times never fall, so times are revisions.
        if let Some(start) = filter.start {
            first = first_at(&mut transaction, start).await?;
        }
        if let Some(time) = filter.end {
            end = end.min(first_at(&mut transaction, time).await?);
        }
        let mut query = changes_query(filter, first, end, limit);
        let rows = query.build().fetch_all(&mut *transaction).await?;
        let page = page_of(&rows, limit, revision, |row| decode(row.try_get(0)?));
        transaction.rollback().await?;
        page
    }

    /// Decisions on allocations after `revision`, oldest first; only of `cluster`, if not empty.
    pub async fn log_after(
        &self,
        after: Revision,
        cluster: &str,
        limit: u32,
    ) -> Result<LogPart, ReadError> {
        let mut transaction = self.connections.begin().await?;
        let revision = revision(&mut transaction).await?;
        let mut query = log_query(after, cluster, limit);
        let rows = query.build().fetch_all(&mut *transaction).await?;
        transaction.rollback().await?;
        let changes: Vec<v1::Change> = rows
            .iter()
            .map(|row| decode(row.try_get(0)?))
            .collect::<Result<_, ReadError>>()?;
        let full = changes.len() >= usize::try_from(limit).expect("32 bits fit");
        let up_to = match changes.last() {
            Some(last) if full => last.revision,
            Some(_) | None => revision.max(after),
        };
        Ok(LogPart { changes, up_to })
    }

    /// What the log covers.
    pub async fn log_span(&self) -> Result<LogSpan, ReadError> {
        let row = sqlx::query(
            "select revision, (select min(revision) from change_log where revision >= log_start)
            from meta where id = 1",
        )
        .fetch_one(&self.connections)
        .await?;
        let revision = unsigned(row.try_get(0)?)?;
        let oldest = row
            .try_get::<Option<i64>, _>(1)?
            .map(unsigned)
            .transpose()?;
        Ok(LogSpan {
            oldest: oldest.unwrap_or(revision + 1),
            revision,
        })
    }

    async fn page<T>(
        &self,
        mut query: QueryBuilder<Sqlite>,
        limit: u32,
        read: impl Fn(&SqliteRow) -> Result<T, ReadError>,
    ) -> Result<Page<T>, ReadError> {
        let mut transaction = self.connections.begin().await?;
        let revision = revision(&mut transaction).await?;
        let rows = query.build().fetch_all(&mut *transaction).await?;
        transaction.rollback().await?;
        page_of(&rows, limit, revision, read)
    }
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
            .push(" and id in (select allocation_id from allocation_address where space = ")
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

/// `first` and `end` bound the revisions.
pub(super) fn changes_query(
    filter: &ChangeFilter,
    first: i64,
    end: i64,
    limit: u32,
) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new("select entry from change_log");
    // Named by its table, so that the planner reads in this order instead of sorting.
    let revision = if let Some((space, address)) = &filter.address {
        query.push(" join change_address using (revision) where space = ");
        query.push_bind(space).push(" and address = ");
        query.push_bind(address.to_bytes().to_vec());
        "change_address.revision"
    } else {
        query.push(" where true");
        "change_log.revision"
    };
    query.push(format!(" and {revision} >= ")).push_bind(first);
    query.push(format!(" and {revision} < ")).push_bind(end);
    if let Some((cluster, namespace, name)) = &filter.owner {
        query
            .push(" and subject = 1 and cluster = ")
            .push_bind(cluster);
        if let Some(namespace) = namespace {
            query.push(" and namespace = ").push_bind(namespace);
        }
        if let Some(name) = name {
            query.push(" and name = ").push_bind(name);
        }
    }
    query.push(format!(" order by {revision} desc limit "));
    query.push_bind(i64::from(limit) + 1);
    query
}

pub(super) fn log_query(after: Revision, cluster: &str, limit: u32) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::<Sqlite>::new("select entry from change_log");
    query
        .push(" where subject = 1 and revision > ")
        .push_bind(signed(after));
    if !cluster.is_empty() {
        // The unary plus keeps the planner on the log's own order.
        query.push(" and +cluster = ").push_bind(cluster);
    }
    query
        .push(" order by revision limit ")
        .push_bind(i64::from(limit));
    query
}

const CLUSTERS: &str = "select name, uid, inventory, create_time, revision,
    (select count(*) from allocation where allocation.cluster = cluster.name) from cluster";

fn cluster(row: &SqliteRow) -> Result<v1::Cluster, ReadError> {
    let inventory: i64 = row.try_get(2)?;
    let create_time = Timestamp(row.try_get(3)?);
    Ok(v1::Cluster {
        name: row.try_get(0)?,
        cluster_uid: row.try_get(1)?,
        create_time: Some(crate::api::convert_history::time_to_wire(create_time)),
        // Complete, or reporting again.
        authoritative: matches!(inventory, 0 | 3),
        allocations: unsigned(row.try_get(5)?)?,
        revision: unsigned(row.try_get(4)?)?,
    })
}

/// One row more than `limit` was asked for, to know whether there are more.
fn page_of<T>(
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

async fn revision(connection: &mut SqliteConnection) -> Result<Revision, ReadError> {
    let row = sqlx::query("select revision from meta where id = 1")
        .fetch_one(connection)
        .await?;
    unsigned(row.try_get(0)?)
}

/// Lowest revision whose time is `time` or later, found by bisection: the log has no index on time
/// because its times never fall. One more than the newest if there is none.
async fn first_at(connection: &mut SqliteConnection, time: Timestamp) -> Result<i64, ReadError> {
    let row = sqlx::query(
        "select coalesce(min(revision), 1), coalesce(max(revision), 0) from change_log",
    )
    .fetch_one(&mut *connection)
    .await?;
    let (mut low, mut high): (i64, i64) = (row.try_get(0)?, row.try_get::<i64, _>(1)? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = sqlx::query(
            "select revision, time from change_log where revision >= ?1 order by revision limit 1",
        )
        .bind(middle)
        .fetch_one(&mut *connection)
        .await?;
        if found.try_get::<i64, _>(1)? < time.0 {
            low = found.try_get::<i64, _>(0)? + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, ReadError> {
    M::decode(bytes).map_err(|error| ReadError::Corrupt(error.to_string()))
}

fn unsigned(number: i64) -> Result<u64, ReadError> {
    u64::try_from(number).map_err(|error| ReadError::Corrupt(error.to_string()))
}

/// Beyond what can exist, everything is in the past.
fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
