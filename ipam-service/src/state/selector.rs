//! Kubernetes label selectors, as values.

use std::fmt;

use super::model::Labels;

/// All parts must hold; an empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub match_labels: Labels,
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without repetition; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// Kubernetes' four operators (`NotIn` also matches where the label is absent).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether it selects something with these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for LabelSelector {
    /// As `kubectl -l` takes it; the empty one reads `everything`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.match_labels.iter();
        let labels = labels.map(|(key, value)| format!("{key}={value}"));
        let expressions = self.match_expressions.iter().map(Requirement::to_string);
        let parts: Vec<String> = labels.chain(expressions).collect();
        match parts.is_empty() {
            true => f.write_str("everything"),
            false => f.write_str(&parts.join(",")),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

/// Whether any of them matches. None at all matches nothing: callers say what empty means.
pub fn any_matches(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.iter().any(|selector| selector.matches(labels))
}

/// The same where none at all means everything.
pub fn none_or_any(selectors: &[LabelSelector], labels: &Labels) -> bool {
    selectors.is_empty() || any_matches(selectors, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn requirement(key: &str, operator: Operator, values: &[&str]) -> LabelSelector {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let requirement = Requirement {
            key: key.to_owned(),
            operator,
            values,
        };
        LabelSelector {
            match_labels: Labels::new(),
            match_expressions: vec![requirement],
        }
    }

    #[test]
    fn selectors_match_as_kubernetes_says() {
        use Operator::{DoesNotExist, Exists, In, NotIn};
        let red = labels(&[("color", "red")]);
        let cases = [
            (LabelSelector::default(), true),
            (requirement("color", In, &["red", "blue"]), true),
            (requirement("color", In, &["blue"]), false),
            (requirement("size", In, &["big"]), false),
            (requirement("color", NotIn, &["red"]), false),
            (requirement("color", NotIn, &["blue"]), true),
            (requirement("size", NotIn, &["big"]), true),
            (requirement("color", Exists, &[]), true),
            (requirement("size", Exists, &[]), false),
            (requirement("color", DoesNotExist, &[]), false),
            (requirement("size", DoesNotExist, &[]), true),
        ];
        for (selector, expected) in cases {
            assert_eq!(selector.matches(&red), expected, "{selector:?}");
        }
        let both = LabelSelector {
            match_labels: red.clone(),
            ..requirement("size", Exists, &[])
        };
        assert!(!both.matches(&red));
    }
}
