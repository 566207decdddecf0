//! Reading the log of decisions, and who held what when.

pub(super) mod query;

use pharos_proto::v1;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use self::query::{Timeline, changes_query, holdings_query, log_query};
use super::Page;
use super::plan::{READS, addresses_of, subject_of};
use super::read::{ReadError, Reader, decode, page_of, revision, signed, unsigned};
use crate::api::convert_history::time_to_wire;
use crate::state::address::Address;
use crate::state::change::Change;
use crate::state::model::{Revision, Timestamp};

/// Rows of the log that are looked at for one page where no index knows what is asked for. About
/// 20 ms; the next page goes on from there.
pub(super) const MOST_LOOKED_AT: u32 = 10_000;

/// An owner, or all of a namespace or cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct OwnerFilter {
    pub cluster: String,
    /// `None`: any.
    pub namespace: Option<String>,
    /// `None`: any.
    pub name: Option<String>,
}

/// What a row of the log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Allocation,
    Pool,
    Advertisement,
    BgpPeer,
    BfdProfile,
    Cluster,
    Reservation,
    Quota,
    Unavailable,
    AddressSpace,
}

impl Kind {
    /// As `change_log.subject` has it.
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Allocation => 1,
            Self::Pool => 2,
            Self::Advertisement => 3,
            Self::BgpPeer => 14,
            Self::BfdProfile => 15,
            Self::Cluster => 4,
            Self::Reservation => 10,
            Self::Quota => 12,
            Self::Unavailable => 11,
            Self::AddressSpace => 13,
        }
    }
}

/// Which decisions to list. What is absent, empty or 0 stands for any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ChangeFilter {
    /// Address space and address held before or after the decision.
    pub address: Option<(String, Address)>,
    pub owner: Option<OwnerFilter>,
    /// Whose allocations, pools and so on.
    pub cluster: String,
    pub kind: Option<Kind>,
    /// Only with a kind other than an allocation.
    pub name: String,
    pub actor: String,
    pub request_id: String,
    /// At or after.
    pub start: Option<Timestamp>,
    /// Before.
    pub end: Option<Timestamp>,
    /// This one or a later one.
    pub start_revision: Revision,
    /// Before this one.
    pub end_revision: Revision,
}

impl ChangeFilter {
    /// Whether rows must be looked at one by one.
    fn looks_at_rows(&self) -> bool {
        !self.actor.is_empty() || !self.request_id.is_empty()
    }

    /// Whether the address alone, or the owner alone, says which rows to read.
    fn is_found_by_allocation(&self) -> bool {
        (self.address.is_none() || self.owner.is_none())
            && self.cluster.is_empty()
            && self.kind.is_none()
    }
}

/// Part of a list of decisions.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangePage {
    pub items: Vec<v1::Change>,
    /// The next page has what is before this revision; `None`: there is no more.
    pub next: Option<Revision>,
    /// Of the store when the page was read.
    pub revision: Revision,
}

/// Which intervals to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HoldingFilter {
    /// Address space and address.
    pub address: Option<(String, Address)>,
    pub owner: Option<OwnerFilter>,
    /// Only of this incarnation; empty means any.
    pub uid: String,
    /// Only what ended after it, or goes on.
    pub ended_after: Option<Timestamp>,
    /// Only what began before it.
    pub begun_before: Option<Timestamp>,
}

/// What the log covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSpan {
    /// Lowest revision from which the log has no gap; one more than `revision` when there is none.
    pub oldest: Revision,
    /// Of the store.
    pub revision: Revision,
}

/// Which decisions a watcher wants. What is absent or empty stands for any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Address space and address held before or after the decision.
    pub address: Option<(String, Address)>,
    pub owner: Option<OwnerFilter>,
    /// Whose allocations, pools and so on.
    pub cluster: String,
    pub allocations_only: bool,
}

impl LogFilter {
    /// Says of a decision what [`query::log_query`] says of its row.
    pub fn matches(&self, change: &Change) -> bool {
        let Some(subject) = subject_of(change) else {
            return false;
        };
        let of_owner = |owner: &OwnerFilter| {
            let is =
                |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|it| it == name);
            subject.code == 1
                && subject.cluster == owner.cluster
                && is(&owner.namespace, subject.namespace)
                && is(&owner.name, subject.name)
        };
        (!self.allocations_only || subject.code == 1)
            && (self.cluster.is_empty() || self.cluster == subject.cluster)
            && self.owner.as_ref().is_none_or(of_owner)
            && self.address.as_ref().is_none_or(|(space, address)| {
                let touched = addresses_of(change);
                touched
                    .iter()
                    .any(|(s, a)| s.as_str() == space && *a == address.to_bytes())
            })
    }
}

/// Encoded decisions, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    pub entries: Vec<(Revision, Vec<u8>)>,
    /// Everything up to this revision has been looked at.
    pub up_to: Revision,
    /// Of the store.
    pub newest: Revision,
}

/// Why the log cannot be read on from a revision.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("revision {after} is no longer in the log")]
    Compacted { after: Revision, span: LogSpan },
    #[error("revision {after} has not happened")]
    Future { after: Revision, span: LogSpan },
}

impl Reader {
    /// Decisions, newest first, before the revision `before`.
    pub async fn changes(
        &self,
        filter: &ChangeFilter,
        before: Option<Revision>,
        limit: u32,
    ) -> Result<ChangePage, ReadError> {
        self.counted(self.read_changes(filter, before, limit)).await
    }

    async fn read_changes(
        &self,
        filter: &ChangeFilter,
        before: Option<Revision>,
        limit: u32,
    ) -> Result<ChangePage, ReadError> {
        let mut transaction = self.begin().await?;
        let (oldest, revision) = log_ends(&mut transaction).await?;
        let mut first = signed(filter.start_revision).max(oldest);
        let mut end = before.map_or(i64::MAX, signed);
        if filter.end_revision != 0 {
            end = end.min(signed(filter.end_revision));
        }
        // Log times never fall, so times are revisions.
        if let Some(start) = filter.start {
            first = first.max(first_at(&mut transaction, Timeline::Log, start).await?);
        }
        if let Some(time) = filter.end {
            end = end.min(first_at(&mut transaction, Timeline::Log, time).await?);
        }
        let most = if filter.looks_at_rows() {
            MOST_LOOKED_AT
        } else {
            limit
        };
        let mut query = changes_query(filter, first, end, most);
        let rows = query.build().fetch_all(&mut *transaction).await?;
        transaction.rollback().await?;
        change_page(&rows, filter, (limit, most), revision)
    }

    /// Intervals in which addresses were held, newest beginning first, before the one named
    /// `before`. Comes with their names.
    pub async fn holdings(
        &self,
        filter: &HoldingFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<(i64, v1::Holding)>, ReadError> {
        self.counted(self.read_holdings(filter, before, limit))
            .await
    }

    async fn read_holdings(
        &self,
        filter: &HoldingFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<(i64, v1::Holding)>, ReadError> {
        let mut transaction = self.begin().await?;
        let revision = revision(&mut transaction).await?;
        let mut end = before.unwrap_or(i64::MAX);
        if let Some(time) = filter.begun_before {
            end = end.min(first_at(&mut transaction, Timeline::Holdings, time).await?);
        }
        let mut query = holdings_query(filter, end, limit);
        let rows = query.build().fetch_all(&mut *transaction).await?;
        transaction.rollback().await?;
        page_of(&rows, limit, revision, holding)
    }

    /// Decisions after the revision `after`, oldest first. Looks at [`MOST_LOOKED_AT`] rows, so
    /// that a filter that wants few cannot keep a connection busy.
    pub async fn log_part(
        &self,
        after: Revision,
        filter: &LogFilter,
        limit: u32,
    ) -> Result<LogPart, LogError> {
        self.counted(self.read_log_part(after, filter, limit)).await
    }

    async fn read_log_part(
        &self,
        after: Revision,
        filter: &LogFilter,
        limit: u32,
    ) -> Result<LogPart, LogError> {
        let mut transaction = self.begin().await.map_err(ReadError::from)?;
        let span = log_span(&mut transaction).await?;
        check_span(after, span)?;
        let newest = span.revision;
        let last = newest.min(after.saturating_add(u64::from(MOST_LOOKED_AT)));
        let mut query = log_query(filter, after, last, limit);
        let rows = query.build().fetch_all(&mut *transaction).await;
        let rows = rows.map_err(ReadError::from)?;
        transaction.rollback().await.map_err(ReadError::from)?;
        let entries: Vec<(Revision, Vec<u8>)> = rows.iter().map(entry).collect::<Result<_, _>>()?;
        let full = entries.len() >= usize::try_from(limit).expect("32 bits fit");
        let up_to = match entries.last() {
            Some((revision, _)) if full => *revision,
            Some(_) | None => last,
        };
        Ok(LogPart {
            entries,
            up_to,
            newest,
        })
    }

    /// Whether the log can be read on from a revision; what it covers.
    pub async fn log_reaches(&self, after: Revision) -> Result<LogSpan, LogError> {
        let span = self.log_span().await?;
        check_span(after, span)?;
        Ok(span)
    }

    /// What the log covers.
    pub async fn log_span(&self) -> Result<LogSpan, ReadError> {
        self.counted(self.read_log_span()).await
    }

    async fn read_log_span(&self) -> Result<LogSpan, ReadError> {
        let mut connection = self.connection().await?;
        log_span(&mut connection).await
    }
}

fn check_span(after: Revision, span: LogSpan) -> Result<(), LogError> {
    if after > span.revision {
        return Err(LogError::Future { after, span });
    }
    if after + 1 < span.oldest {
        return Err(LogError::Compacted { after, span });
    }
    Ok(())
}

/// Revision of the oldest row that there is, and that of the store. Watchers begin later
/// ([`LogSpan`]): behind the gap that a restore leaves.
async fn log_ends(connection: &mut SqliteConnection) -> Result<(i64, Revision), ReadError> {
    let row = sqlx::query(
        "select coalesce((select min(revision) from change_log), log_start), revision
        from meta where id = 1",
    )
    .fetch_one(connection)
    .await?;
    Ok((row.try_get(0)?, unsigned(row.try_get(1)?)?))
}

async fn log_span(connection: &mut SqliteConnection) -> Result<LogSpan, ReadError> {
    let row = sqlx::query("select revision, log_start from meta where id = 1")
        .fetch_one(connection)
        .await?;
    Ok(LogSpan {
        oldest: unsigned(row.try_get(1)?)?,
        revision: unsigned(row.try_get(0)?)?,
    })
}

// === Rows ===

/// A row of the log that begins with revision, min_reader and entry.
fn change(row: &SqliteRow) -> Result<v1::Change, ReadError> {
    check_format(row)?;
    decode(row.try_get(2)?)
}

/// The same, as it is stored.
fn entry(row: &SqliteRow) -> Result<(Revision, Vec<u8>), ReadError> {
    check_format(row)?;
    Ok((unsigned(row.try_get(0)?)?, row.try_get(2)?))
}

fn check_format(row: &SqliteRow) -> Result<(), ReadError> {
    let needs: i64 = row.try_get(1)?;
    if needs > READS {
        let revision = row.try_get(0)?;
        return Err(ReadError::Newer { revision, needs });
    }
    Ok(())
}

/// `most` rows were asked for, and one more to know whether there are more.
fn change_page(
    rows: &[SqliteRow],
    filter: &ChangeFilter,
    (limit, most): (u32, u32),
    revision: Revision,
) -> Result<ChangePage, ReadError> {
    let size = |limit: u32| usize::try_from(limit).expect("32 bits fit");
    let mut items = Vec::new();
    let mut looked_at = 0;
    let mut last = None;
    for row in rows.iter().take(size(most)) {
        if items.len() == size(limit) {
            break;
        }
        looked_at += 1;
        last = Some(unsigned(row.try_get(0)?)?);
        let is = |wanted: &str, index: usize| -> Result<bool, ReadError> {
            Ok(wanted.is_empty() || row.try_get::<&str, _>(index)? == wanted)
        };
        if is(&filter.actor, 3)? && is(&filter.request_id, 4)? {
            items.push(change(row)?);
        }
    }
    Ok(ChangePage {
        items,
        next: last.filter(|_| rows.len() > looked_at),
        revision,
    })
}

fn holding(row: &SqliteRow) -> Result<(i64, v1::Holding), ReadError> {
    let address: [u8; 16] = row
        .try_get::<&[u8], _>(2)?
        .try_into()
        .map_err(|_| ReadError::Corrupt("table holding: an address".to_owned()))?;
    let end_revision = unsigned(row.try_get(11)?)?;
    let end_time = Timestamp(row.try_get(12)?);
    let holding = v1::Holding {
        owner: Some(v1::Owner {
            cluster: row.try_get(4)?,
            namespace: row.try_get(5)?,
            name: row.try_get(6)?,
            uid: row.try_get(7)?,
        }),
        address: Address::from_bytes(address).to_string(),
        address_space: row.try_get(1)?,
        pool: row.try_get(8)?,
        allocation_id: unsigned(row.try_get(3)?)?,
        start_time: Some(time_to_wire(Timestamp(row.try_get(10)?))),
        start_revision: unsigned(row.try_get(9)?)?,
        end_time: (end_revision != 0).then(|| time_to_wire(end_time)),
        end_revision,
    };
    Ok((row.try_get(0)?, holding))
}

/// Lowest key whose time is `time` or later, found by bisection. One more than the newest if there
/// is none.
async fn first_at(
    connection: &mut SqliteConnection,
    timeline: Timeline,
    time: Timestamp,
) -> Result<i64, ReadError> {
    let (ends, at) = timeline.queries();
    let row = sqlx::query(ends).fetch_one(&mut *connection).await?;
    let (mut low, mut high): (i64, i64) = (row.try_get(0)?, row.try_get::<i64, _>(1)? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = sqlx::query(at)
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
