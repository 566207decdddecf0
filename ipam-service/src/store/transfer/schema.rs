//! What a database says of its own tables.

use rusqlite::Connection;

/// Of the driver, not of ours.
const NOT_OURS: &str = "_sqlx_migrations";

/// Ours, in the order in which they were made.
pub(super) fn tables(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    let sql = "select name from sqlite_schema where type = 'table' and name <> ?1
        and name not like 'sqlite\\_%' escape '\\' order by rowid";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([NOT_OURS], |row| row.get(0))?;
    names.collect()
}

/// A column of a table.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) is_blob: bool,
}

pub(super) fn columns_of(
    connection: &Connection,
    table: &str,
) -> Result<Vec<Column>, rusqlite::Error> {
    let sql = "select name, lower(type) = 'blob' from pragma_table_info(?1) order by cid";
    let mut statement = connection.prepare(sql)?;
    let columns = statement.query_map([table], |row| {
        Ok(Column {
            name: row.get(0)?,
            is_blob: row.get(1)?,
        })
    })?;
    columns.collect()
}

/// Number of the newest migration.
pub(super) fn schema_of(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let sql = "select max(version) from _sqlx_migrations";
    let version: i64 = connection.query_row(sql, (), |row| row.get(0))?;
    Ok(u64::try_from(version).unwrap_or(0))
}
