//! A check for unbound names in a CEL expression, so that a misspelled name makes the server refuse the CRD instead
//! of every object later.
//!
//! The check knows the variables that comprehensions (`all`, `exists`, `map`, …) bind; `kube-cel`'s own check does
//! not. It does not check types and fields.

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{ComprehensionExpr, EntryExpr, Expr};

/// The variables that every rule has.
const VARIABLES: [&str; 2] = ["self", "oldSelf"];

/// The names of types: `type(self) == string`.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"];

/// The namespaces of functions: `math.greatest(…)`.
const NAMESPACES: [&str; 11] = [
    "base64",
    "cel",
    "cidr",
    "format",
    "ip",
    "jsonpatch",
    "lists",
    "math",
    "optional",
    "sets",
    "strings",
];

/// Returns the first name that is neither a variable of rules nor bound by a comprehension around it.
pub(super) fn unbound_name(expression: &IdedExpr) -> Option<String> {
    search(expression, &mut Vec::new())
}

fn search<'a>(expression: &'a IdedExpr, bound: &mut Vec<&'a str>) -> Option<String> {
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) => None,
        Expr::Ident(name) => (!is_bound(name, bound)).then(|| name.clone()),
        Expr::Select(select) => search(&select.operand, bound),
        Expr::List(list) => list.elements.iter().find_map(|element| search(element, bound)),
        Expr::Map(map) => map.entries.iter().find_map(|entry| search_entry(&entry.expr, bound)),
        Expr::Struct(literal) => {
            literal.entries.iter().find_map(|entry| search_entry(&entry.expr, bound))
        }
        Expr::Call(call) => {
            let target = call.target.as_deref().filter(|target| !is_namespace(target));
            target
                .and_then(|target| search(target, bound))
                .or_else(|| call.args.iter().find_map(|argument| search(argument, bound)))
        }
        Expr::Comprehension(comprehension) => search_comprehension(comprehension, bound),
    }
}

fn search_entry<'a>(entry: &'a EntryExpr, bound: &mut Vec<&'a str>) -> Option<String> {
    match entry {
        EntryExpr::StructField(field) => search(&field.value, bound),
        EntryExpr::MapEntry(entry) => {
            search(&entry.key, bound).or_else(|| search(&entry.value, bound))
        }
    }
}

fn search_comprehension<'a>(
    comprehension: &'a ComprehensionExpr,
    bound: &mut Vec<&'a str>,
) -> Option<String> {
    let ComprehensionExpr {
        iter_range,
        iter_var,
        iter_var2,
        accu_var,
        accu_init,
        loop_cond,
        loop_step,
        result,
    } = comprehension;
    if let Some(name) = search(iter_range, bound).or_else(|| search(accu_init, bound)) {
        return Some(name);
    }
    let outer = bound.len();
    bound.extend([iter_var.as_str(), accu_var.as_str()]);
    bound.extend(iter_var2.as_deref());
    let found = [loop_cond, loop_step, result].into_iter().find_map(|part| search(part, bound));
    bound.truncate(outer);
    found
}

fn is_bound(name: &str, bound: &[&str]) -> bool {
    // The names that macros bind begin with `@`.
    name.starts_with('@')
        || VARIABLES.contains(&name)
        || TYPES.contains(&name)
        || bound.contains(&name)
}

fn is_namespace(target: &IdedExpr) -> bool {
    let Expr::Ident(name) = &target.expr else { return false };
    NAMESPACES.contains(&name.as_str())
}
