//! Label selectors: Kubernetes' form to the API's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use pharos_proto::v1;

use super::Problems;

type Operator = v1::label_selector_requirement::Operator;

/// A list of selectors of which any may match.
pub(super) fn convert_all(
    field: &str,
    selectors: &[LabelSelector],
    problems: &mut Problems<'_>,
) -> Vec<v1::LabelSelector> {
    problems.no_repetition(field, selectors);
    selectors
        .iter()
        .enumerate()
        .map(|(index, selector)| convert(&format!("{field}[{index}]"), selector, problems))
        .collect()
}

pub(super) fn convert(
    field: &str,
    selector: &LabelSelector,
    problems: &mut Problems<'_>,
) -> v1::LabelSelector {
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    problems.no_repetition(&format!("{field}.matchExpressions"), expressions);
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
    if !needs_values && !values.is_empty() {
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
