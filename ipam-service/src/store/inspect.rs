//! What is looked at before a database is used: files that belong to a database which is not there, a
//! log that may not be on the disk, a file that was cut short, numbers that cannot be.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use sqlx::{Row as _, SqliteConnection};

use super::files::{REPLACED, RESTORING, beside, folder_of};
use super::open_error::{OpenError, by_code, sql_error};
use super::sqlite::{OWNER, is_foreign};
use super::write::connect;

/// An empty file is a database that was begun, or a log that was emptied.
pub(super) fn is_used(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0)
}

/// A missing database whose traces are there is not lost: to make a new one would lose it.
pub(super) fn leftovers(path: &Path) -> Result<(), OpenError> {
    log_without_database(path)?;
    if is_used(&beside(path, RESTORING)) {
        return Err(OpenError::RestoreCutShort(path.to_owned()));
    }
    let aside = newest_aside(path).map_err(|source| OpenError::File {
        path: path.to_owned(),
        source,
    })?;
    match aside {
        Some(aside) => Err(OpenError::MovedAside {
            database: path.to_owned(),
            aside,
        }),
        None => Ok(()),
    }
}

/// The database that a restore moved out of the way last.
fn newest_aside(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let prefix = beside(path, REPLACED);
    let mut newest = None;
    for entry in std::fs::read_dir(folder_of(path))? {
        let found = folder_of(path).join(entry?.file_name());
        let name = found.as_os_str().as_encoded_bytes();
        let time = name.strip_prefix(prefix.as_os_str().as_encoded_bytes());
        let time = time.and_then(|time| std::str::from_utf8(time).ok()?.parse::<i64>().ok());
        if is_used(&found) {
            newest = newest.max(time);
        }
    }
    Ok(newest.map(|time| beside(path, &format!("{REPLACED}{time}"))))
}

/// SQLite would remove such a log.
pub(super) fn log_without_database(path: &Path) -> Result<(), OpenError> {
    match !is_used(path) && is_used(&beside(path, "-wal")) {
        true => Err(OpenError::LogWithoutDatabase(path.to_owned())),
        false => Ok(()),
    }
}

// === The log ===

/// How much of the log is in memory at once.
const PART: usize = 1 << 20;

/// Makes sure that the log of a database is on the disk as it is read, before anything is appended to it
/// or moved out of it.
///
/// Whoever else has the database open may append whenever it likes, and what was read before would be
/// written over it: so it is kept out meanwhile (SQLite has no locks on the log itself that closing it
/// here would give back), and the log of another program is left alone.
pub(super) fn rewrite_log(path: &Path) -> Result<(), OpenError> {
    let sql = |error: rusqlite::Error| {
        let code = error.sqlite_error().map(|failure| failure.extended_code);
        by_code(path, code, error.into())
    };
    let connection = connect(path).map_err(sql)?;
    // Until it is written, nobody moves it: not even who closes the database last.
    let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(config, true).map_err(sql)?;
    let owner = connection.query_row(OWNER, (), |row| Ok((row.get(0)?, row.get(1)?)));
    let (application, tables) = owner.map_err(sql)?;
    if is_foreign(application, tables) {
        return Err(OpenError::NotOurs(path.to_owned()));
    }
    connection.execute_batch("begin immediate").map_err(sql)?;
    rewrite_log_of(path).map_err(|source| OpenError::File {
        path: path.to_owned(),
        source,
    })?;
    connection.execute_batch("rollback").map_err(sql)
}

/// The same for who has a transaction that writes, and so keeps everybody else out.
pub(super) fn rewrite_log_of(path: &Path) -> std::io::Result<()> {
    rewrite(&beside(path, "-wal"))
}

/// Writes what a file holds once more, and syncs it. If a sync of the log failed before a crash, frames
/// that can be read may never have reached the disk. A second sync would not write them and would say
/// that all is well; what is appended behind them would be lost with them, and a checkpoint that is cut
/// short would leave a mixture. Nothing happens where there is no log.
fn rewrite(log: &Path) -> std::io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(log) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut part = vec![0; PART];
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let read = file.read(&mut part)?;
        if read == 0 {
            return file.sync_all();
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&part[..read])?;
        at += u64::try_from(read).expect("a part is small");
    }
}

// === The length of the file ===

/// Refuses a database file that was cut short. Without a log SQLite sees that by itself; beside a log it
/// believes the log, which says how long the database is, and reads zeros where there is no page.
pub(super) async fn refuse_cut_short(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), OpenError> {
    let of_sql = |source| sql_error(path, source);
    let query = "select page_count, page_size from pragma_page_count, pragma_page_size";
    let row = sqlx::query(query).fetch_one(&mut *connection).await;
    let row = row.map_err(of_sql)?;
    let (needs, page_size): (u32, u32) = (
        row.try_get(0).map_err(of_sql)?,
        row.try_get(1).map_err(of_sql)?,
    );
    let of_file = |source| OpenError::File {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(of_file)?.len();
    let has = u32::try_from(bytes / u64::from(page_size)).unwrap_or(u32::MAX);
    if has >= needs {
        return Ok(());
    }
    let logged = logged_pages(&beside(path, "-wal")).map_err(of_file)?;
    let Some(lost) = first_lost(has, needs, page_size, &logged) else {
        return Ok(());
    };
    // A page that was free again before its first commit is nowhere, and nobody misses it.
    let check = sqlx::query("pragma quick_check(1)").fetch_one(connection);
    let found = check.await.and_then(|row| row.try_get::<String, _>(0));
    let problem = match found {
        Ok(found) if found == "ok" => return Ok(()),
        Ok(found) => found,
        Err(error) => error.to_string(),
    };
    let problem = format!("it was cut short: page {lost} of {needs} is missing ({problem})");
    Err(OpenError::Damaged {
        path: path.to_owned(),
        problem,
    })
}

/// Where SQLite takes its locks; it never writes the page that is there (sqlite.org/fileformat2.html,
/// section 1.4).
const LOCK_BYTE: u32 = 1 << 30;

/// The first page that is neither in the file, which has `has` pages, nor in the log.
fn first_lost(has: u32, needs: u32, page_size: u32, logged: &BTreeSet<u32>) -> Option<u32> {
    let lock_page = LOCK_BYTE / page_size + 1;
    let mut missing = (has..needs).map(|page| page + 1);
    missing.find(|page| *page != lock_page && !logged.contains(page))
}

/// The pages of which the log has a version (its format: sqlite.org/fileformat2.html, section 4.1).
/// Frames of an earlier round of the log have other salts.
fn logged_pages(log: &Path) -> std::io::Result<BTreeSet<u32>> {
    let mut pages = BTreeSet::new();
    let mut log = match File::open(log) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(pages),
        opened => BufReader::new(opened?),
    };
    let mut header = [0; 32];
    let Some(()) = whole(log.read_exact(&mut header))? else {
        return Ok(pages);
    };
    let page_size = i64::from(number(&header, 8));
    let mut frame = [0; 24];
    while whole(log.read_exact(&mut frame))?.is_some() && frame[8..16] == header[16..24] {
        pages.insert(number(&frame, 0));
        log.seek_relative(page_size)?;
    }
    Ok(pages)
}

/// `None`: the file ends before.
fn whole(read: std::io::Result<()>) -> std::io::Result<Option<()>> {
    match read {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(Some),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    u32::from_be_bytes(bytes)
}

// === Numbers ===

/// Far more than any store can reach, and as far from where numbers end.
const MOST: i64 = 1 << 62;

/// Refuses a database whose term, revision or clock cannot be: nothing that the writer counts could be
/// told from what was before.
pub(super) async fn refuse_impossible(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), OpenError> {
    let of_sql = |source| sql_error(path, source);
    for (table, columns) in [
        ("meta", "epoch, revision, fact_seq, log_start"),
        ("history_meta", "min_reader, clock_seen, clock_accepted"),
    ] {
        let query = format!("select {columns} from {table} where id = 1");
        let query = sqlx::query(sqlx::AssertSqlSafe(query));
        let row = query.fetch_optional(&mut *connection).await;
        let Some(row) = row.map_err(of_sql)? else {
            continue;
        };
        for (index, column) in columns.split(", ").enumerate() {
            let value: i64 = row.try_get(index).map_err(of_sql)?;
            if !(0..=MOST).contains(&value) {
                let path = path.to_owned();
                let problem = format!("row 1 of table {table} has {column} {value}");
                return Err(OpenError::Damaged { path, problem });
            }
        }
    }
    // A database that was only begun has no such row yet.
    let used = "select not exists (select 1 from meta)
        and (exists (select 1 from change_log) or exists (select 1 from allocation))";
    let row = sqlx::query(used).fetch_one(connection).await;
    if row.and_then(|row| row.try_get(0)).map_err(of_sql)? {
        let path = path.to_owned();
        let problem = "table meta has lost its row".to_owned();
        return Err(OpenError::Damaged { path, problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_lost_that_neither_the_file_nor_the_log_has() {
        let log = |pages: &[u32]| pages.iter().copied().collect::<BTreeSet<u32>>();
        assert_eq!(first_lost(5, 5, 4096, &log(&[])), None);
        assert_eq!(first_lost(5, 7, 4096, &log(&[6, 7])), None);
        assert_eq!(first_lost(5, 7, 4096, &log(&[2, 6])), Some(7));
        assert_eq!(first_lost(0, 1, 4096, &log(&[])), Some(1));
        // Nobody ever writes the page with the locks.
        let lock_page = 262_145;
        assert_eq!(
            first_lost(lock_page - 1, lock_page + 1, 4096, &log(&[lock_page + 1])),
            None
        );
        assert_eq!(
            first_lost(lock_page - 1, lock_page + 1, 4096, &log(&[])),
            Some(lock_page + 1)
        );
    }

    #[test]
    fn a_log_is_written_once_more_and_stays_what_it_is() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("log");
        rewrite(&log).expect("there is none");
        let bytes: Vec<u8> = (0..PART + 5000).map(|at| (at % 251) as u8).collect();
        std::fs::write(&log, &bytes).expect("written");
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        let file = OpenOptions::new().write(true).open(&log).expect("a log");
        file.set_modified(long_ago).expect("set");
        rewrite(&log).expect("written");
        assert!(std::fs::read(&log).expect("a log") == bytes);
        let modified = std::fs::metadata(&log).and_then(|file| file.modified());
        assert!(modified.expect("a time") > long_ago, "it was not written");
    }
}
