//! The position of a node in a schema.

/// The position of a node in the schema, which decides the keywords that it must and must not have.
#[derive(Clone, Copy)]
pub(super) struct SchemaNodePosition {
    pub(super) role: SchemaRole,
    pub(super) depth: usize,
    /// Whether the old value of the node can be found in an update: not below atomic lists and sets.
    pub(super) correlatable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SchemaRole {
    Root,
    Property,
    Items,
    Values,
    /// Inside `allOf`, `anyOf`, `oneOf` or `not`.
    Branch(BranchType),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BranchType {
    Forbidden,
    Allowed,
}

impl SchemaNodePosition {
    pub(super) fn inside(self, role: SchemaRole) -> Self {
        // Every node below a branch is part of the branch.
        let role = match self.role {
            SchemaRole::Branch(_) => SchemaRole::Branch(BranchType::Forbidden),
            SchemaRole::Root | SchemaRole::Property | SchemaRole::Items | SchemaRole::Values => {
                role
            }
        };
        Self { role, depth: self.depth + 1, correlatable: self.correlatable }
    }

    pub(super) fn is_branch(self) -> bool {
        matches!(self.role, SchemaRole::Branch(_))
    }
}
