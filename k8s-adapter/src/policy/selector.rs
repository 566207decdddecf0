//! Label selectors: Kubernetes' form to the API's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use pharos_proto::v1;

use super::findings::Problems;

type Operator = v1::label_selector_requirement::Operator;

/// A list of selectors of which any may match.
pub(super) fn convert_all(
    field: &str,
    selectors: &[LabelSelector],
    problems: &mut Problems<'_>,
) -> Vec<v1::LabelSelector> {
    let normal: Vec<LabelSelector> = selectors.iter().map(normalized).collect();
    problems.no_repetition(field, &normal);
    selectors
        .iter()
        .enumerate()
        .map(|(index, selector)| convert(&format!("{field}[{index}]"), selector, problems))
        .collect()
}

/// The order of values means nothing.
fn normalized(selector: &LabelSelector) -> LabelSelector {
    let mut selector = selector.clone();
    for expression in selector.match_expressions.iter_mut().flatten() {
        expression
            .values
            .iter_mut()
            .for_each(|values| values.sort());
    }
    selector
}

pub(super) fn convert(
    field: &str,
    selector: &LabelSelector,
    problems: &mut Problems<'_>,
) -> v1::LabelSelector {
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    let normal = normalized(selector).match_expressions.unwrap_or_default();
    problems.no_repetition(&format!("{field}.matchExpressions"), &normal);
    v1::LabelSelector {
        match_labels: selector
            .match_labels
            .clone()
            .into_iter()
            .flatten()
            .collect(),
        match_expressions: expressions
            .iter()
            .enumerate()
            .map(|(index, expression)| {
                requirement(
                    &format!("{field}.matchExpressions[{index}]"),
                    expression,
                    problems,
                )
            })
            .collect(),
    }
}

fn requirement(
    field: &str,
    expression: &LabelSelectorRequirement,
    problems: &mut Problems<'_>,
) -> v1::LabelSelectorRequirement {
    let values = expression.values.clone().unwrap_or_default();
    problems.no_repetition(&format!("{field}.values"), &values);
    if expression.key.is_empty() {
        problems.add(format!("{field}.key"), "must not be empty");
    }
    let operator = match expression.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            let message = format!("{other:?} is not a valid label selector operator");
            problems.add(format!("{field}.operator"), message);
            Operator::Unspecified
        }
    };
    let needs_values = matches!(operator, Operator::In | Operator::NotIn);
    if needs_values && values.is_empty() {
        problems.add(format!("{field}.values"), "must be given for In and NotIn");
    }
    let takes_none = matches!(operator, Operator::Exists | Operator::DoesNotExist);
    if takes_none && !values.is_empty() {
        problems.add(
            format!("{field}.values"),
            "must be empty for Exists and DoesNotExist",
        );
    }
    v1::LabelSelectorRequirement {
        key: expression.key.clone(),
        operator: operator as i32,
        values,
    }
}

/// Whether any of the selectors matches an object; `label` gives its labels.
pub(super) fn any_matches<'a>(
    selectors: &[v1::LabelSelector],
    label: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    selectors.iter().any(|selector| {
        let labels = selector.match_labels.iter();
        let mut labels = labels.map(|(key, value)| label(key) == Some(value.as_str()));
        let expressions = selector.match_expressions.iter();
        let mut expressions = expressions.map(|expression| holds(expression, &label));
        labels.all(|matches| matches) && expressions.all(|holds| holds)
    })
}

fn holds<'a>(
    expression: &v1::LabelSelectorRequirement,
    label: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    let value = label(&expression.key);
    let listed = value.is_some_and(|value| expression.values.iter().any(|it| it == value));
    match expression.operator() {
        Operator::In => listed,
        Operator::NotIn => !listed,
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        // It was told as an error.
        Operator::Unspecified => false,
    }
}
