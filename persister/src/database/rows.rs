//! Many rows in one statement.
//!
//! On PostgreSQL the rows travel as one array for each column and come out of `unnest`: the text of
//! the statement is always the same, so it is parsed and planned once, and no limit on parameters
//! is met. On SQLite they are a list of `VALUES`, in chunks of a few sizes so that these, too, stay
//! prepared. Either way the statement sees them as a table `v`.

use std::{borrow::Cow, fmt::Write as _};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement, Value, sea_query::ArrayType};
use uuid::Uuid;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Uuid,
    Text,
    Int,
    Bool,
    Bytes,
    MaybeUuid,
    MaybeText,
    MaybeInt,
}

impl Kind {
    fn postgres(self) -> &'static str {
        match self {
            Self::Uuid | Self::MaybeUuid => "uuid",
            Self::Text | Self::MaybeText => "text",
            Self::Int | Self::MaybeInt => "bigint",
            Self::Bool => "boolean",
            Self::Bytes => "bytea",
        }
    }

    fn array(self) -> ArrayType {
        match self {
            Self::Uuid | Self::MaybeUuid => ArrayType::Uuid,
            Self::Text | Self::MaybeText => ArrayType::String,
            Self::Int | Self::MaybeInt => ArrayType::BigInt,
            Self::Bool => ArrayType::Bool,
            Self::Bytes => ArrayType::Bytes,
        }
    }

    /// What stands for null in an array, which SeaORM's cannot hold: a value that none of these
    /// columns has otherwise (ids of nothing, empty names, numbers before the first).
    fn null(self) -> Option<(Value, &'static str)> {
        match self {
            Self::MaybeUuid => Some((Uuid::nil().into(), "'00000000-0000-0000-0000-000000000000'::uuid")),
            Self::MaybeText => Some(("".into(), "''")),
            Self::MaybeInt => Some(((-1_i64).into(), "-1")),
            Self::Uuid | Self::Text | Self::Int | Self::Bool | Self::Bytes => None,
        }
    }
}

fn is_null(value: &Value) -> bool {
    matches!(value, Value::Uuid(None) | Value::String(None) | Value::BigInt(None))
}

/// Rows on SQLite per statement: few sizes, so that each statement's text comes back.
const CHUNKS: [usize; 5] = [512, 128, 32, 8, 1];

/// SQLite's default limit of parameters in a statement.
const SQLITE_BINDS: usize = 32_766;

/// The table `v` of a statement.
pub(crate) struct Rows<const N: usize> {
    columns: [(&'static str, Kind); N],
    rows: Vec<[Value; N]>,
}

impl<const N: usize> Rows<N> {
    pub(crate) fn new(columns: [(&'static str, Kind); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: [Value; N]) {
        self.rows.push(row);
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Runs `sql`, which reads from `v` and has no parameters of its own; returns how many rows it
    /// affected.
    pub(crate) async fn execute(self, database: &impl ConnectionTrait, sql: &str) -> Result<u64, DbErr> {
        let mut affected = 0;
        for statement in self.statements(database.get_database_backend(), sql) {
            affected += database.execute_raw(statement).await?.rows_affected();
        }
        Ok(affected)
    }

    /// Runs the query `sql`, which reads from `v` and has no parameters of its own.
    pub(crate) async fn query(self, database: &impl ConnectionTrait, sql: &str) -> Result<Vec<QueryResult>, DbErr> {
        let mut out = Vec::new();
        for statement in self.statements(database.get_database_backend(), sql) {
            out.append(&mut database.query_all_raw(statement).await?);
        }
        Ok(out)
    }

    fn statements(self, backend: DbBackend, sql: &str) -> Vec<Statement> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        match backend {
            DbBackend::Sqlite => self.chunked(sql),
            _ => vec![self.unnested(sql)],
        }
    }

    fn names(&self) -> String {
        self.columns.map(|(name, _)| name).join(", ")
    }

    fn unnested(self, sql: &str) -> Statement {
        let (table, values) = self.unnest("v", 1);
        Statement::from_sql_and_values(DbBackend::Postgres, format!("WITH {table} {sql}"), values)
    }

    /// The rows as a table of PostgreSQL's `WITH` under `name`, and its parameters, which are numbered from `first`.
    pub(crate) fn unnest(self, name: &str, first: usize) -> (String, Vec<Value>) {
        let names = self.names();
        let mut arrays: [Vec<Value>; N] = std::array::from_fn(|_| Vec::with_capacity(self.rows.len()));
        for row in self.rows {
            for ((array, value), (_, kind)) in arrays.iter_mut().zip(row).zip(self.columns) {
                array.push(match kind.null() {
                    Some((null, _)) if is_null(&value) => null,
                    Some(_) | None => value,
                });
            }
        }
        let each = |what: &dyn Fn(usize, Kind, &str) -> String| {
            let parts: Vec<String> = self.columns.iter().enumerate().map(|(index, (name, kind))| what(index, *kind, name)).collect();
            parts.join(", ")
        };
        let selected = each(&|_, kind, name| kind.null().map_or_else(|| name.to_owned(), |(_, null)| format!("nullif({name}, {null})")));
        let bound = each(&|index, kind, _| format!("${}::{}[]", first + index, kind.postgres()));
        let text = format!("{name}({names}) AS (SELECT {selected} FROM unnest({bound}) AS t({names}))");
        let values = arrays.into_iter().zip(self.columns).map(|(array, (_, kind))| Value::Array(kind.array(), Some(Box::new(array))));
        (text, values.collect())
    }

    fn chunked(self, sql: &str) -> Vec<Statement> {
        let names = self.names();
        let row = format!("({})", vec!["?"; N].join(","));
        let mut left = self.rows.into_iter();
        let mut statements = Vec::new();
        while left.len() > 0 {
            let fits = |size: &usize| *size <= left.len() && size * N <= SQLITE_BINDS;
            let size = CHUNKS.into_iter().find(fits).unwrap_or(1);
            let text = format!("WITH v({names}) AS (VALUES {}) {sql}", vec![row.as_str(); size].join(","));
            let values: Vec<Value> = left.by_ref().take(size).flatten().collect();
            statements.push(Statement::from_sql_and_values(DbBackend::Sqlite, text, values));
        }
        statements
    }
}

/// Numbers the `?` of `sql` where the backend wants numbers.
pub(crate) fn placeholders(backend: DbBackend, sql: &str) -> Cow<'_, str> {
    if backend == DbBackend::Sqlite {
        return Cow::Borrowed(sql);
    }
    let mut out = String::with_capacity(sql.len() + 8);
    let mut number = 0;
    for part in sql.split_inclusive('?') {
        match part.strip_suffix('?') {
            Some(before) => {
                number += 1;
                let _ = write!(out, "{before}${number}");
            }
            None => out.push_str(part),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_for_postgres_only() {
        assert_eq!(placeholders(DbBackend::Postgres, "a = ? AND b = ?"), "a = $1 AND b = $2");
        assert_eq!(placeholders(DbBackend::Sqlite, "a = ?"), "a = ?");
    }

    #[test]
    fn every_row_is_in_one_chunk() {
        let mut rows = Rows::new([("a", Kind::Int), ("b", Kind::Int)]);
        for n in 0..1000_i64 {
            rows.push([n.into(), n.into()]);
        }
        let statements = rows.statements(DbBackend::Sqlite, "SELECT * FROM v");
        let binds: usize = statements.iter().map(|s| s.values.as_ref().map_or(0, |v| v.0.len())).sum();
        assert_eq!(binds, 2000);
        assert_eq!(statements.len(), 1 + 3 + 3 + 1);
    }
}
