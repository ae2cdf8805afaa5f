//! The parser of the JSONPath subset. Its recursion is one level deep: a filter holds no other filter.

use serde_json::Value;

use super::{JsonPathError, JsonPathFilter, JsonPathFilterOperator, JsonPathStep};

/// Parses a whole path.
pub(super) fn parse(path: &str) -> Result<Vec<JsonPathStep>, JsonPathError> {
    let inner = match path.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(|| JsonPathError {
            path: path.to_owned(),
            at: path.len(),
            expected: "`}`",
        })?,
        None => path,
    };
    let end = path.len() - usize::from(path.starts_with('{'));
    let mut parser = JsonPathParser { path, rest: inner.strip_prefix('$').unwrap_or(inner), end };
    let mut steps = Vec::new();
    // kubectl allows the first dot to be left out.
    if parser.rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        steps.push(parser.name()?);
    }
    parser.steps(&mut steps, JsonPathFiltersAllowed::Yes)?;
    match (steps.is_empty(), parser.rest.is_empty()) {
        (false, true) => Ok(steps),
        (true, _) => Err(parser.expected("`.name` or `[…]`")),
        (false, false) => Err(parser.expected("`.`, `[` or the end")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum JsonPathFiltersAllowed {
    Yes,
    No,
}

struct JsonPathParser<'a> {
    path: &'a str,
    rest: &'a str,
    /// Offset in `path` where `rest` ends.
    end: usize,
}

impl<'a> JsonPathParser<'a> {
    fn expected(&self, expected: &'static str) -> JsonPathError {
        let at = self.end.saturating_sub(self.rest.len());
        JsonPathError { path: self.path.to_owned(), at, expected }
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take_while(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|c| !accepts(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn steps(
        &mut self,
        steps: &mut Vec<JsonPathStep>,
        filter: JsonPathFiltersAllowed,
    ) -> Result<(), JsonPathError> {
        loop {
            if self.eat(".") {
                if self.eat("*") {
                    steps.push(JsonPathStep::Every);
                } else if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else if self.eat("[") {
                steps.push(self.bracket(filter)?);
            } else {
                return Ok(());
            }
        }
    }

    /// Parses a member's name; a backslash makes the next character part of the name.
    fn name(&mut self) -> Result<JsonPathStep, JsonPathError> {
        let mut name = String::new();
        loop {
            name.push_str(
                self.take_while(|c| {
                    c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '@' | ':')
                }),
            );
            if !self.eat("\\") {
                break;
            }
            let mut characters = self.rest.chars();
            name.push(characters.next().ok_or_else(|| self.expected("a character after `\\`"))?);
            self.rest = characters.as_str();
        }
        if name.is_empty() { Err(self.expected("a name")) } else { Ok(JsonPathStep::Member(name)) }
    }

    fn bracket(&mut self, filter: JsonPathFiltersAllowed) -> Result<JsonPathStep, JsonPathError> {
        self.skip_blanks();
        let step = if self.eat("*") {
            JsonPathStep::Every
        } else if self.rest.starts_with(['\'', '"']) {
            JsonPathStep::Member(self.quoted()?)
        } else if filter == JsonPathFiltersAllowed::Yes && self.eat("?(") {
            self.filter()?
        } else {
            self.index()?
        };
        self.skip_blanks();
        if self.eat("]") { Ok(step) } else { Err(self.expected("`]`")) }
    }

    fn quoted(&mut self) -> Result<String, JsonPathError> {
        let quote = if self.rest.starts_with('"') { "\"" } else { "'" };
        self.eat(quote);
        let text = self.take_while(|c| !quote.contains(c));
        let closed = self.eat(quote);
        if closed { Ok(text.to_owned()) } else { Err(self.expected("the closing quote")) }
    }

    fn index(&mut self) -> Result<JsonPathStep, JsonPathError> {
        let from = self.number()?;
        if self.eat(":") {
            return Ok(JsonPathStep::Slice(from, self.number()?));
        }
        from.map(JsonPathStep::Index)
            .ok_or_else(|| self.expected("an index, `*`, a quoted name or `?(`"))
    }

    fn number(&mut self) -> Result<Option<i64>, JsonPathError> {
        let digits = self.take_while(|c| c.is_ascii_digit() || c == '-');
        if digits.is_empty() {
            return Ok(None);
        }
        digits.parse().map(Some).map_err(|_| self.expected("an integer before this byte"))
    }

    fn filter(&mut self) -> Result<JsonPathStep, JsonPathError> {
        self.skip_blanks();
        if !self.eat("@") {
            return Err(self.expected("`@`"));
        }
        let mut path = Vec::new();
        self.steps(&mut path, JsonPathFiltersAllowed::No)?;
        self.skip_blanks();
        let comparison = match self.operator() {
            Some(operator) => {
                self.skip_blanks();
                Some((operator, self.literal()?))
            }
            None => None,
        };
        self.skip_blanks();
        if self.eat(")") {
            Ok(JsonPathStep::Filter(JsonPathFilter { path, comparison }))
        } else {
            Err(self.expected("`)`"))
        }
    }

    fn operator(&mut self) -> Option<JsonPathFilterOperator> {
        let operators = [
            ("==", JsonPathFilterOperator::Equal),
            ("!=", JsonPathFilterOperator::NotEqual),
            ("<=", JsonPathFilterOperator::LessOrEqual),
            (">=", JsonPathFilterOperator::GreaterOrEqual),
            ("<", JsonPathFilterOperator::Less),
            (">", JsonPathFilterOperator::Greater),
        ];
        operators.into_iter().find_map(|(text, operator)| self.eat(text).then_some(operator))
    }

    fn literal(&mut self) -> Result<Value, JsonPathError> {
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(Value::String);
        }
        let word = self.take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '+'));
        match serde_json::from_str(word) {
            Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => Ok(value),
            _ => {
                Err(self
                    .expected("a quoted string, a number, true, false or null before this byte"))
            }
        }
    }
}
