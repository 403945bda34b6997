//! Reading TOML tables field by field: the expected type, or a finding at the exact place.
use std::ops::Range;

use toml_edit::{Item, TableLike, Value};

use super::kind;
use crate::policy::diagnostic::{Findings, did_you_mean};
use crate::policy::types::Word;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

/// A table whose unknown fields have been reported.
pub(super) struct Fields<'d> {
    table: &'d dyn TableLike,
    at: Range<usize>,
    what: &'static str,
}

impl<'d> Fields<'d> {
    /// Reads `table`, called `what` in messages, which has the fields `known`.
    pub(super) fn new(
        table: &'d dyn TableLike,
        at: Range<usize>,
        what: &'static str,
        known: &[&'static str],
        findings: &mut Findings<'_>,
    ) -> Self {
        for (name, item) in table.iter() {
            if !known.contains(&name) {
                let key_at = table.key(name).and_then(toml_edit::Key::span);
                let at = key_at.or_else(|| item.span()).unwrap_or_else(|| at.clone());
                let hint = did_you_mean(name, known.iter().copied());
                let hint = hint.unwrap_or_else(|| format!("it can have: {}", known.join(", ")));
                findings.add_with_hint(&at, format!("{what} has no field {name:?}"), hint);
            }
        }
        Self { table, at, what }
    }

    /// Where the table begins.
    pub(super) fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Where the value of the field stands; where there is none, the table.
    pub(super) fn at_value(&self, name: &str) -> Range<usize> {
        self.item(name).map_or_else(|| self.at(), |(_, at)| at)
    }

    /// Where the name of the field stands; where there is none, the table.
    pub(super) fn at_key(&self, name: &str) -> Range<usize> {
        self.table.key(name).and_then(toml_edit::Key::span).unwrap_or_else(|| self.at())
    }

    fn item(&self, name: &str) -> Option<(&'d Item, Range<usize>)> {
        let (key, item) = self.table.get_key_value(name)?;
        let at = item.span().or_else(|| key.span()).unwrap_or_else(|| self.at());
        Some((item, at))
    }

    /// Reports that the field is missing.
    pub(super) fn missing(&self, name: &str, example: &str, findings: &mut Findings<'_>) {
        findings.add_with_hint(&self.at, format!("{} needs `{name}`", self.what), format!("add {name} = {example}"));
    }

    /// A string that must be there.
    pub(super) fn required_string(
        &self,
        name: &str,
        example: &str,
        findings: &mut Findings<'_>,
    ) -> Option<Spanned<&'d str>> {
        if !self.has(name) {
            self.missing(name, example, findings);
        }
        self.string(name, example, findings)
    }

    /// A string.
    pub(super) fn string(&self, name: &str, example: &str, findings: &mut Findings<'_>) -> Option<Spanned<&'d str>> {
        let (item, at) = self.item(name)?;
        let Some(value) = item.as_str() else {
            wrong_kind(name, "a string", item, &at, &format!("write it like {name} = {example}"), findings);
            return None;
        };
        Some(Spanned { value, at })
    }

    /// A string or an integer, still to be read.
    pub(super) fn value(&self, name: &str) -> Option<Spanned<&'d Item>> {
        self.item(name).map(|(value, at)| Spanned { value, at })
    }

    pub(super) fn boolean(&self, name: &str, findings: &mut Findings<'_>) -> Option<bool> {
        let (item, at) = self.item(name)?;
        if item.as_bool().is_none() {
            wrong_kind(name, "true or false", item, &at, "write it without quotation marks", findings);
        }
        item.as_bool()
    }

    /// One of the words of an enumeration.
    pub(super) fn word<T: Word>(&self, name: &str, findings: &mut Findings<'_>) -> Option<Spanned<T>> {
        let example = format!("{:?}", T::ALL[0].0);
        let Spanned { value, at } = self.string(name, &example, findings)?;
        match value.parse() {
            Ok(value) => Some(Spanned { value, at }),
            Err(error) => {
                let message = format!("`{name}` cannot be {value:?}");
                findings.add_with_hint(&at, message, error.to_string());
                None
            }
        }
    }

    /// A list with at least one item.
    pub(super) fn list(
        &self,
        name: &str,
        example: &str,
        findings: &mut Findings<'_>,
    ) -> Option<Vec<Spanned<&'d Value>>> {
        let (item, at) = self.item(name)?;
        let Some(array) = item.as_array() else {
            wrong_kind(name, "a list", item, &at, &format!("write it like {name} = {example}"), findings);
            return None;
        };
        if array.is_empty() {
            let hint = format!("leave `{name}` out for its default");
            findings.add_with_hint(&at, format!("`{name}` is an empty list, which would allow nothing"), hint);
            return None;
        }
        let spanned = |value: &'d Value| Spanned { value, at: value.span().unwrap_or_else(|| at.clone()) };
        Some(array.iter().map(spanned).collect())
    }

    /// A list of strings, with at least one item.
    pub(super) fn strings(
        &self,
        name: &str,
        example: &str,
        findings: &mut Findings<'_>,
    ) -> Option<Vec<Spanned<&'d str>>> {
        let items = self.list(name, example, findings)?;
        let mut strings = Vec::with_capacity(items.len());
        for Spanned { value, at } in &items {
            match value.as_str() {
                Some(value) => strings.push(Spanned { value, at: at.clone() }),
                None => findings.add_with_hint(
                    at,
                    format!("`{name}` must be a list of strings"),
                    format!("write it like {name} = {example}"),
                ),
            }
        }
        Some(strings)
    }

    /// A table, called `what` in messages, which has the fields `known`.
    pub(super) fn table(
        &self,
        name: &str,
        what: &'static str,
        known: &[&'static str],
        findings: &mut Findings<'_>,
    ) -> Option<Fields<'d>> {
        let (item, at) = self.item(name)?;
        let Some(table) = item.as_table_like() else {
            wrong_kind(name, "a table", item, &at, &format!("write it like {what}"), findings);
            return None;
        };
        Some(Fields::new(table, at, what, known, findings))
    }

    /// A list of tables, written with `header`, each called `what` in messages.
    pub(super) fn tables(
        &self,
        name: &str,
        header: &str,
        what: &'static str,
        known: &[&'static str],
        findings: &mut Findings<'_>,
    ) -> Option<Vec<Fields<'d>>> {
        let (item, at) = self.item(name)?;
        let mut tables = Vec::new();
        match item {
            Item::ArrayOfTables(array) => {
                for table in array {
                    tables.push(Fields::new(table, table.span().unwrap_or_else(|| at.clone()), what, known, findings));
                }
            }
            Item::Value(Value::Array(array)) => {
                for value in array {
                    let at = value.span().unwrap_or_else(|| at.clone());
                    match value.as_inline_table() {
                        Some(table) => tables.push(Fields::new(table, at, what, known, findings)),
                        None => findings.add_with_hint(
                            &at,
                            format!("{what} is a table"),
                            format!("write it below {header}"),
                        ),
                    }
                }
            }
            other => {
                let hint = format!("write {header}, with two brackets, above its fields");
                wrong_kind(name, "a list of tables", other, &at, &hint, findings);
                return None;
            }
        }
        Some(tables)
    }

    /// A table of tables under names of the writer's choice, each called `what` in messages, with the fields `known`.
    pub(super) fn tables_by_name(
        &self,
        name: &str,
        example: &str,
        what: &'static str,
        known: &[&'static str],
        findings: &mut Findings<'_>,
    ) -> Vec<(Spanned<&'d str>, Fields<'d>)> {
        let Some((item, at)) = self.item(name) else {
            return Vec::new();
        };
        let Some(table) = item.as_table_like() else {
            wrong_kind(name, "a table", item, &at, &format!("write it like {name} = {example}"), findings);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (key, item) in table.iter() {
            let key_at = table.key(key).and_then(toml_edit::Key::span).unwrap_or_else(|| at.clone());
            let at = item.span().unwrap_or_else(|| key_at.clone());
            match item.as_table_like() {
                Some(table) => {
                    let fields = Fields::new(table, at, what, known, findings);
                    tables.push((Spanned { value: key, at: key_at }, fields));
                }
                None => findings.add_with_hint(
                    &at,
                    format!("{what} is a table"),
                    format!("write it like {name} = {example}"),
                ),
            }
        }
        tables
    }

    /// A table of strings under names of the writer's choice.
    pub(super) fn map(&self, name: &str, findings: &mut Findings<'_>) -> Vec<(Spanned<&'d str>, Spanned<&'d str>)> {
        let Some((item, at)) = self.item(name) else {
            return Vec::new();
        };
        let Some(table) = item.as_table_like() else {
            wrong_kind(name, "a table", item, &at, &format!("write it like {name} = {{ KEY = \"value\" }}"), findings);
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (key, item) in table.iter() {
            let key_at = table.key(key).and_then(toml_edit::Key::span).unwrap_or_else(|| at.clone());
            let value_at = item.span().unwrap_or_else(|| key_at.clone());
            match item.as_str() {
                Some(value) => {
                    entries.push((Spanned { value: key, at: key_at }, Spanned { value, at: value_at }));
                }
                None => {
                    wrong_kind(key, "a string", item, &value_at, &format!("write it like {key} = \"value\""), findings)
                }
            }
        }
        entries
    }
}

pub(super) fn wrong_kind(
    name: &str,
    wanted: &str,
    item: &Item,
    at: &Range<usize>,
    hint: &str,
    findings: &mut Findings<'_>,
) {
    findings.add_with_hint(at, format!("`{name}` must be {wanted}, not {}", kind(item)), hint);
}
