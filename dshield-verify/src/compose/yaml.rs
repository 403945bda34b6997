//! YAML that every reader reads alike: a text flows in, a tree flows out, or the line that readers may disagree on.
//!
//! docker compose reads YAML with another parser than this one. Where two parsers differ, a file could show one set of
//! services here and start another. So only the plain part of the language is taken: one document; no anchors, aliases,
//! merge keys, tags or directives; each key once and on one line; scalars on one line, or as a block (`|`, `>`); nothing in
//! `[…]` and `{…}` that needs knowledge of their special rules; no tabs or characters that some readers take for line
//! breaks.
use std::collections::BTreeSet;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// The longest text, in bytes.
const MAX_TEXT: usize = 256 << 10;
/// How deep lists and mappings nest.
const MAX_DEPTH: usize = 32;
/// The most scalars, lists and mappings.
const MAX_NODES: usize = 20_000;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A text, a number, a truth value; `null` and nothing at all, where `plain`.
    Scalar { text: String, plain: bool },
    /// In order.
    List(Vec<Node>),
    /// In order, each key once.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The text of a scalar that is not null.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// Whether it is `null`, or nothing.
    pub fn is_null(&self) -> bool {
        let null = |text: &str| matches!(text, "" | "~" | "null" | "Null" | "NULL");
        matches!(self, Self::Scalar { text, plain: true } if null(text))
    }

    /// Whether it is an empty list or mapping, or null.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Scalar { .. } => self.is_null(),
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
        }
    }

    /// Whether it is `false`, and nothing else that a reader might take for it.
    pub fn is_false(&self) -> bool {
        self.text() == Some("false")
    }

    /// The entries of a mapping; none of null.
    pub fn entries(&self) -> Option<&[(String, Node)]> {
        match self {
            Self::Map(entries) => Some(entries),
            _ if self.is_null() => Some(&[]),
            _ => None,
        }
    }

    /// The items of a list; none of null.
    pub fn items(&self) -> Option<&[Node]> {
        match self {
            Self::List(items) => Some(items),
            _ if self.is_null() => Some(&[]),
            _ => None,
        }
    }

    /// What a mapping has under `key`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// All texts in it, keys of mappings too.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Scalar { text, .. } => vec![text],
            Self::List(items) => items.iter().flat_map(Self::texts).collect(),
            Self::Map(entries) => {
                entries.iter().flat_map(|(key, value)| std::iter::once(&**key).chain(value.texts())).collect()
            }
        }
    }
}

/// Why a text is not taken. Its writer can mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum YamlFault {
    #[error("it is {0} bytes long, and more than {MAX_TEXT} are not read")]
    TooLong(usize),
    #[error("it has more than {MAX_NODES} values, or they nest deeper than {MAX_DEPTH}")]
    TooMuch,
    #[error(
        "line {line} has the character U+{character:04X}, which YAML readers treat differently; use spaces and plain line ends"
    )]
    Character { line: usize, character: u32 },
    #[error("line {line} begins with a YAML directive (%); leave it out")]
    Directive { line: usize },
    #[error("it is not YAML: {0}")]
    Syntax(String),
    #[error("it has more than one YAML document (---), which docker compose merges; write one")]
    Documents,
    #[error(
        "line {line} has an anchor, alias or merge key, which YAML readers resolve differently; write the value out"
    )]
    Alias { line: usize },
    #[error("line {line} has a YAML tag (!), which changes what docker compose reads; leave it out")]
    Tag { line: usize },
    #[error("line {line} has the key {key:?} a second time")]
    Duplicate { line: usize, key: String },
    #[error("line {line} has a key that is not a plain name; write it as a word on one line")]
    Key { line: usize },
    #[error(
        "line {line} begins a text that goes on in the next line, which YAML readers join differently; write it on one line, or as a block (|)"
    )]
    Lines { line: usize },
    #[error("line {line} has {text:?} between brackets, where YAML has rules of its own; put it in quotes")]
    Bare { line: usize, text: String },
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Node, YamlFault> {
    if text.len() > MAX_TEXT {
        return Err(YamlFault::TooLong(text.len()));
    }
    for (line, number) in text.split('\n').zip(1..) {
        if let Some(bad) = line.chars().find(|one| !is_plain(*one)) {
            return Err(YamlFault::Character { line: number, character: bad.into() });
        }
        if line.starts_with('%') {
            return Err(YamlFault::Directive { line: number });
        }
    }
    let mut builder = Builder { characters: text.chars().collect(), open: Vec::new(), root: None, nodes: 0 };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| YamlFault::Syntax(error.to_string()))?;
        match event {
            Event::DocumentStart(_) if documents == 1 => return Err(YamlFault::Documents),
            Event::DocumentStart(_) => documents += 1,
            event => builder.take(event, span)?,
        }
    }
    Ok(builder.root.unwrap_or(Node::Scalar { text: String::new(), plain: true }))
}

/// Whether no reader takes it for a line break or a space, and no person overlooks it. Bidirectional controls make a line
/// look like another one.
fn is_plain(character: char) -> bool {
    match character {
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        character => !character.is_control(),
    }
}

/// A list or mapping that has not ended.
struct Open {
    node: Node,
    /// The keys so far.
    keys: BTreeSet<String>,
    /// The key whose value comes next.
    key: Option<String>,
    /// Whether it is written with brackets.
    flow: bool,
}

struct Builder {
    characters: Vec<char>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlFault> {
        let line = span.start.line();
        match event {
            Event::Alias(_) => return Err(YamlFault::Alias { line }),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor > 0 =>
            {
                return Err(YamlFault::Alias { line });
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(YamlFault::Tag { line });
            }
            Event::Scalar(text, style, ..) => self.scalar(text.into_owned(), style, span)?,
            Event::SequenceStart(..) => self.start(Node::List(Vec::new()), span)?,
            Event::MappingStart(..) => self.start(Node::Map(Vec::new()), span)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { node, .. }) = self.open.pop() {
                    self.put(node, line)?;
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn start(&mut self, node: Node, span: Span) -> Result<(), YamlFault> {
        self.count()?;
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlFault::TooMuch);
        }
        if self.wants_key() {
            return Err(YamlFault::Key { line: span.start.line() });
        }
        let bracket = matches!(self.characters.get(span.start.index()), Some('[' | '{'));
        let flow = bracket || self.in_flow();
        self.open.push(Open { node, keys: BTreeSet::new(), key: None, flow });
        Ok(())
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, span: Span) -> Result<(), YamlFault> {
        self.count()?;
        let line = span.start.line();
        let plain = style == ScalarStyle::Plain;
        let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        let written = self.characters.get(span.start.index()..span.end.index()).unwrap_or_default();
        if !block && written.iter().rev().skip_while(|one| one.is_whitespace()).any(|one| *one == '\n') {
            return Err(YamlFault::Lines { line });
        }
        if plain && self.in_flow() && !is_bare_word(&text) {
            return Err(YamlFault::Bare { line, text });
        }
        if self.wants_key() {
            // The merge key works in quotes, too.
            return match text.as_str() {
                "<<" => Err(YamlFault::Alias { line }),
                "" => Err(YamlFault::Key { line }),
                _ if block => Err(YamlFault::Key { line }),
                _ => self.key(text, line),
            };
        }
        self.put(Node::Scalar { text, plain }, line)
    }

    fn key(&mut self, key: String, line: usize) -> Result<(), YamlFault> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        if !open.keys.insert(key.clone()) {
            return Err(YamlFault::Duplicate { line, key });
        }
        open.key = Some(key);
        Ok(())
    }

    fn put(&mut self, node: Node, line: usize) -> Result<(), YamlFault> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node {
            Node::List(items) => items.push(node),
            Node::Map(entries) => {
                let key = open.key.take().ok_or(YamlFault::Key { line })?;
                entries.push((key, node));
            }
            Node::Scalar { .. } => {}
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        self.open.last().is_some_and(|open| matches!(open.node, Node::Map(_)) && open.key.is_none())
    }

    fn in_flow(&self) -> bool {
        self.open.last().is_some_and(|open| open.flow)
    }

    fn count(&mut self) -> Result<(), YamlFault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(YamlFault::TooMuch) } else { Ok(()) }
    }
}

/// Whether it means the same between brackets as anywhere.
fn is_bare_word(text: &str) -> bool {
    let first = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | '.' | '/' | '$');
    let other = |one: char| first(one) || matches!(one, '-' | '+' | '=' | '@' | '~' | ' ');
    text.starts_with(first) && text.chars().all(other)
}
