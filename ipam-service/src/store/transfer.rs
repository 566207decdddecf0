//! `ipam-service export` and `import`: a store as JSON lines, for people, scripts and other stores.
//!
//! A line is a row of a table: its columns, with encoded messages as the JSON of their protobuf
//! type, addresses as text and other bytes in base64. Tables are taken from the schema, so none can be
//! forgotten. The first line says what the file is and the last how many lines there are.

mod schema;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::Ipv6Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use rusqlite::types::{Value as Cell, ValueRef};
use rusqlite::{Connection, params_from_iter};
use serde_json::{Map, Value};

use self::schema::{Column, columns_of, schema_of, tables};
use super::backup::Beside;
use super::sql::sole_holder;
use crate::state::address::Address;
use crate::state::model::Revision;

/// What a line is: a table, or the first or last line. No column is called so.
const TYPE: &str = "type";

/// Of the lines. A reader refuses any other.
const FORMAT: u64 = 1;

/// Who holds an address alone has no row but that of the address. An export of schema 7 has them too,
/// and a row that is too many would keep its owner from giving the address back.
const SOLE: &str = "
delete from allocation_port where (space, address) in
    (select space, address from held_address where group_key like 'a%');
delete from allocation_address where (space, address) in
    (select space, address from held_address where group_key like 'a%')";

/// An export of a schema before 9 does not have it with the owner.
const ENDS: &str = "
update former_owner set end_revision = past.revision from change_log past
where former_owner.end_revision = 0 and past.subject = 1 and past.kind = 3
    and former_owner.cluster = past.cluster and former_owner.namespace = past.namespace
    and former_owner.name = past.name and former_owner.allocation_id = past.allocation_id";

/// What an older schema had and this one tells from other rows: a table, or a column of one.
const GONE: [(&str, Option<&str>); 4] = [
    ("change_address", None),
    ("allocation_address", Some("cluster")),
    ("allocation_address", Some("group_key")),
    ("allocation_address", Some("backend_key")),
];

/// Rows of addresses that were given back are of no use but to their own table.
const HELD: &str = concat!("where group_key like 'k%' or exists ", sole_holder!());

/// Tables that are history: left out unless asked for. Without them a store knows what is, and not
/// how it came about.
const HISTORY: [&str; 4] = ["change_log", "former_owner", "holding", "history_meta"];

/// Longest line in bytes: the largest message that the server takes, and room for its JSON.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// Which message is encoded in which column.
pub(super) const MESSAGES: &[(&str, &str, &str)] = &[
    ("pool", "entry", "Pool"),
    ("advertisement", "entry", "Advertisement"),
    ("allocation", "entry", "Allocation"),
    ("allocation", "held_claim", "Claim"),
    ("change_log", "entry", "Change"),
    ("node", "reported", "SyncFactsRequest"),
    ("node", "announcer", "AnnouncerReport.Hello"),
    ("backends", "entry", "BackendsFact"),
    ("placement", "entry", "PlacementFact"),
    ("reservation", "entry", "Reservation"),
    ("bgp_peer", "entry", "BgpPeer"),
    ("bfd_profile", "entry", "BfdProfile"),
    ("quota", "entry", "Quota"),
    ("address_space", "entry", "AddressSpace"),
    ("unavailable", "entry", "Unavailable"),
    ("awaited_nodes", "entry", "NodeSet"),
];

/// Columns of bytes that are addresses.
const ADDRESSES: [&str; 3] = ["address", "first", "last"];

/// Secrets, which are left out unless they are asked for: table and column of a text.
const PASSWORDS: (&str, &str) = ("bgp_peer", "password");

/// What an export holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    pub store_id: String,
    pub revision: Revision,
    /// Rows.
    pub rows: u64,
}

/// Why there is no whole export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("reading the database: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("writing the lines: {0}")]
    Write(#[from] std::io::Error),
    #[error("a row of table {table} is damaged: {problem}")]
    Corrupt { table: String, problem: String },
}

/// A line that cannot be taken in. Nothing is, then.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ImportError {
    pub line: u64,
    pub problem: String,
}

/// Writes every row, in one read transaction: the store as it was at one commit.
pub(super) fn export(
    connection: &Connection,
    to: &mut dyn Write,
    beside: Beside,
) -> Result<Exported, ExportError> {
    connection.execute_batch("begin")?;
    let (store_id, revision): (String, i64) = connection.query_row(
        "select store_id, revision from meta where id = 1",
        (),
        |row| row.try_into(),
    )?;
    let mut header = Map::new();
    header.insert(TYPE.to_owned(), "header".into());
    header.insert("format".to_owned(), FORMAT.into());
    header.insert("schema".to_owned(), schema_of(connection)?.into());
    header.insert("store_id".to_owned(), store_id.clone().into());
    header.insert("revision".to_owned(), revision.into());
    header.insert("history".to_owned(), beside.history.into());
    write_line(to, header)?;
    let messages = Messages::new();
    let mut rows = 0;
    for table in tables(connection)? {
        if beside.history || !HISTORY.contains(&table.as_str()) {
            rows += export_table(connection, &messages, &table, beside.passwords, to)?;
        }
    }
    let mut end = Map::new();
    end.insert(TYPE.to_owned(), "end".into());
    end.insert("rows".to_owned(), rows.into());
    write_line(to, end)?;
    connection.execute_batch("rollback")?;
    Ok(Exported {
        store_id,
        revision: u64::try_from(revision).unwrap_or(0),
        rows,
    })
}

fn export_table(
    connection: &Connection,
    messages: &Messages,
    table: &str,
    passwords: bool,
    to: &mut dyn Write,
) -> Result<u64, ExportError> {
    let columns = columns_of(connection, table)?;
    // The names are those of the schema.
    let still = if table == "held_address" { HELD } else { "" };
    let mut statement = connection.prepare(&format!("select * from \"{table}\" {still}"))?;
    let mut found = statement.query(())?;
    let mut rows = 0;
    while let Some(row) = found.next()? {
        let mut line = Map::new();
        line.insert(TYPE.to_owned(), table.into());
        for (index, column) in columns.iter().enumerate() {
            let value = match (table, &*column.name) {
                PASSWORDS if !passwords => ValueRef::Text(&[]),
                _ => row.get_ref(index)?,
            };
            let value = messages.to_json(table, &column.name, value);
            let value = value.map_err(|problem| ExportError::Corrupt {
                table: table.to_owned(),
                problem,
            })?;
            line.insert(column.name.clone(), value);
        }
        write_line(to, line)?;
        rows += 1;
    }
    Ok(rows)
}

fn write_line(to: &mut dyn Write, line: Map<String, Value>) -> std::io::Result<()> {
    serde_json::to_writer(&mut *to, &Value::Object(line))?;
    to.write_all(b"\n")
}

/// Rows come table by table, and refer to others that come later. Unless the history comes too, the
/// intervals in which addresses are held are to be made out of what is held now. And an older schema
/// has less of the history.
const BEGIN: &str = "begin immediate; pragma defer_foreign_keys = on;
    update history_meta set holdings_filled = 0, owners_filled = 0";

/// Fills the tables of a new database, in one transaction: all lines or none.
pub(super) fn import(connection: &Connection, from: &mut dyn BufRead) -> Result<u64, ImportError> {
    let sql = |problem: rusqlite::Error| ImportError {
        line: 0,
        problem: problem.to_string(),
    };
    connection.execute_batch(BEGIN).map_err(sql)?;
    let mut lines = Lines {
        // Nobody else's table may be filled.
        known: tables(connection).map_err(sql)?,
        columns: BTreeMap::new(),
        messages: Messages::new(),
        connection,
        rows: 0,
        ended: false,
    };
    let mut line = 0;
    loop {
        line += 1;
        let at = |problem: String| ImportError { line, problem };
        let mut text = Vec::new();
        let mut limited = std::io::Read::take(&mut *from, LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut text);
        if read.map_err(|error| at(error.to_string()))? == 0 {
            break;
        }
        lines.take(line, &text).map_err(at)?;
    }
    let at = |problem: &str| ImportError {
        line,
        problem: problem.to_owned(),
    };
    if !lines.ended {
        return Err(at("the last line is missing: the file was cut short"));
    }
    let rows = lines.rows;
    for statements in [SOLE, ENDS, "commit"] {
        let done = connection.execute_batch(statements);
        done.map_err(|error| at(&error.to_string()))?;
    }
    Ok(rows)
}

/// Lines on their way into a database.
struct Lines<'a> {
    connection: &'a Connection,
    known: Vec<String>,
    /// Of the tables that have been met so far.
    columns: BTreeMap<String, Vec<Column>>,
    messages: Messages,
    rows: u64,
    ended: bool,
}

impl Lines<'_> {
    fn take(&mut self, line: u64, text: &[u8]) -> Result<(), String> {
        if !text.ends_with(b"\n") {
            return Err("it has no end, or is too long".to_owned());
        }
        if self.ended {
            return Err("it comes after the last".to_owned());
        }
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let Value::Object(mut fields) = value else {
            return Err("it is not a JSON object".to_owned());
        };
        let Some(Value::String(kind)) = fields.remove(TYPE) else {
            return Err("it has no type".to_owned());
        };
        match (line, kind.as_str()) {
            (1, "header") => self.take_header(&fields),
            (1, _) => Err("the first line is not the header of an export".to_owned()),
            (_, "end") => self.take_end(&fields),
            (_, table) => self.take_row(table, fields),
        }
    }

    fn take_header(&self, fields: &Map<String, Value>) -> Result<(), String> {
        let number = |name: &str| fields.get(name).and_then(Value::as_u64);
        if number("format") != Some(FORMAT) {
            return Err(format!("its format is not {FORMAT}"));
        }
        let ours = schema_of(self.connection).map_err(|error| error.to_string())?;
        match number("schema") {
            Some(theirs) if theirs <= ours => Ok(()),
            Some(theirs) => Err(format!(
                "it was written by a newer version of ipam-service (schema {theirs}; this one \
                 knows {ours})"
            )),
            None => Err("it has no schema".to_owned()),
        }
    }

    fn take_end(&mut self, fields: &Map<String, Value>) -> Result<(), String> {
        let told = fields.get("rows").and_then(Value::as_u64);
        if told != Some(self.rows) {
            let rows = self.rows;
            return Err(format!("{rows} rows came, and it tells of {told:?}"));
        }
        self.ended = true;
        Ok(())
    }

    fn take_row(&mut self, table: &str, mut fields: Map<String, Value>) -> Result<(), String> {
        if GONE.contains(&(table, None)) {
            self.rows += 1;
            return Ok(());
        }
        if !self.known.iter().any(|known| known == table) {
            return Err(format!("unknown type {table:?}"));
        }
        let text = |error: rusqlite::Error| error.to_string();
        if !self.columns.contains_key(table) {
            // What a new database begins with gives way to what was exported.
            let empty = format!("delete from \"{table}\"");
            self.connection.execute(&empty, ()).map_err(text)?;
            let columns = columns_of(self.connection, table).map_err(text)?;
            self.columns.insert(table.to_owned(), columns);
        }
        let (mut names, mut cells) = (Vec::new(), Vec::new());
        for column in &self.columns[table] {
            // A column that an older schema did not have gets its default.
            let name = &column.name;
            if let Some(value) = fields.remove(name) {
                let cell = self.messages.of_json(table, column, value);
                cells.push(cell.map_err(|problem| format!("{name}: {problem}"))?);
                names.push(format!("\"{name}\""));
            }
        }
        fields.retain(|name, _| !GONE.contains(&(table, Some(name))));
        if let Some((unknown, _)) = fields.iter().next() {
            return Err(format!("unknown field {unknown:?} of {table}"));
        }
        let marks = vec!["?"; cells.len()].join(", ");
        let names = names.join(", ");
        let insert = format!("insert into \"{table}\" ({names}) values ({marks})");
        let mut insert = self.connection.prepare_cached(&insert).map_err(text)?;
        insert.execute(params_from_iter(cells)).map_err(text)?;
        self.rows += 1;
        Ok(())
    }
}

// === Values ===

/// The messages of package `pharos.v1`, with their JSON.
struct Messages(DescriptorPool);

impl Messages {
    fn new() -> Self {
        let pool = DescriptorPool::decode(pharos_proto::DESCRIPTOR_SET);
        Self(pool.expect("the descriptors of this program are valid"))
    }

    fn decode(&self, message: &str, bytes: &[u8]) -> Result<DynamicMessage, String> {
        let descriptor = self.0.get_message_by_name(&format!("pharos.v1.{message}"));
        let descriptor = descriptor.ok_or_else(|| format!("no message {message}"))?;
        DynamicMessage::decode(descriptor, bytes).map_err(|error| error.to_string())
    }

    fn to_json(&self, table: &str, column: &str, value: ValueRef<'_>) -> Result<Value, String> {
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => number.into(),
            ValueRef::Real(_) => return Err(format!("{column} is no integer")),
            ValueRef::Text(text) => {
                let text = std::str::from_utf8(text);
                text.map_err(|error| error.to_string())?.into()
            }
            ValueRef::Blob(bytes) => match message_of(table, column) {
                Some(message) => {
                    let message = self.decode(message, bytes)?;
                    let options = SerializeOptions::new().use_proto_field_name(true);
                    message
                        .serialize_with_options(serde_json::value::Serializer, &options)
                        .map_err(|error| error.to_string())?
                }
                None if ADDRESSES.contains(&column) => {
                    let bytes: [u8; 16] = bytes
                        .try_into()
                        .map_err(|_| format!("{column} has {} bytes", bytes.len()))?;
                    Address::from_bytes(bytes).to_string().into()
                }
                None => BASE64.encode(bytes).into(),
            },
        })
    }

    /// Texts stand for bytes where the column is known to hold such.
    fn of_json(&self, table: &str, column: &Column, value: Value) -> Result<Cell, String> {
        if value.is_null() {
            return Ok(Cell::Null);
        }
        if let Some(message) = message_of(table, &column.name) {
            let descriptor = self.0.get_message_by_name(&format!("pharos.v1.{message}"));
            let descriptor = descriptor.ok_or_else(|| format!("no message {message}"))?;
            let options = DeserializeOptions::new().deny_unknown_fields(true);
            let message = DynamicMessage::deserialize_with_options(descriptor, value, &options)
                .map_err(|error| error.to_string())?;
            return Ok(Cell::Blob(message.encode_to_vec()));
        }
        match value {
            Value::Number(number) => {
                let number = number.as_i64().ok_or("is no integer of 64 bits")?;
                Ok(Cell::Integer(number))
            }
            Value::String(text) if column.is_blob && ADDRESSES.contains(&&*column.name) => {
                let address: std::net::IpAddr = text.parse().map_err(|_| "is no address")?;
                let bytes = match address {
                    std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    std::net::IpAddr::V6(v6) => v6,
                };
                Ok(Cell::Blob(Ipv6Addr::octets(&bytes).to_vec()))
            }
            Value::String(text) if column.is_blob => {
                let bytes = BASE64.decode(text).map_err(|error| error.to_string())?;
                Ok(Cell::Blob(bytes))
            }
            Value::String(text) => Ok(Cell::Text(text)),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                Err("is neither a number nor a text".to_owned())
            }
        }
    }
}

fn message_of(table: &str, column: &str) -> Option<&'static str> {
    let found = MESSAGES.iter().find(|it| (it.0, it.1) == (table, column));
    found.map(|it| it.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[tokio::test]
    async fn every_column_of_bytes_is_known_to_be_a_message_or_plain_bytes() {
        let folder = Folder::new();
        drop(folder.open().await);
        let connection = Connection::open(folder.file()).expect("a database");
        for table in tables(&connection).expect("tables") {
            for column in columns_of(&connection, &table).expect("columns") {
                let plain = ADDRESSES.contains(&&*column.name) || is_plain(&table, &column.name);
                let known = message_of(&table, &column.name).is_some() || plain;
                assert!(!column.is_blob || known, "{table}.{}", column.name);
                assert_ne!(column.name, TYPE, "of {table}");
            }
        }
        let messages = Messages::new();
        for (table, column, message) in MESSAGES {
            messages
                .decode(message, &[])
                .expect("a message of the package");
            assert!(!is_plain(table, column));
        }
    }

    /// Shown in base64.
    fn is_plain(table: &str, column: &str) -> bool {
        matches!(
            (table, column),
            ("unavailable", "awaited") | ("awaited_nodes", "id")
        )
    }
}
