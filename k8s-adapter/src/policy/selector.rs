//! Label selectors: Kubernetes' form to the API's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use pharos_proto::v1;

use super::findings::Problems;
use super::limits::MAX_PARTS;
use super::{label, limits};

type Operator = v1::label_selector_requirement::Operator;

/// A list of selectors of which any may match. Neither it nor one of them says the same twice.
pub(super) fn convert_all(
    field: &str,
    selectors: &[LabelSelector],
    problems: &mut Problems<'_>,
) -> Vec<v1::LabelSelector> {
    let normal: Vec<LabelSelector> = selectors.iter().map(normalized).collect();
    problems.no_repetition(field, &normal);
    for (index, selector) in normal.iter().enumerate() {
        let field = format!("{field}[{index}].matchExpressions");
        problems.no_repetition(&field, expressions(selector));
    }
    let each = selectors.iter().enumerate();
    each.map(|(index, selector)| {
        let field = format!("{field}[{index}]");
        for (index, expression) in expressions(selector).iter().enumerate() {
            let field = format!("{field}.matchExpressions[{index}].values");
            problems.no_repetition(&field, expression.values.as_deref().unwrap_or_default());
        }
        convert(&field, selector, problems)
    })
    .collect()
}

/// A selector that may say the same twice, without the repetitions.
pub(super) fn convert_once(
    field: &str,
    selector: &LabelSelector,
    problems: &mut Problems<'_>,
) -> v1::LabelSelector {
    let normal = normalized(selector);
    let field_of_all = format!("{field}.matchExpressions");
    limits::check_parts(&field_of_all, expressions(&normal), problems);
    problems.once(&field_of_all, expressions(&normal));
    let mut converted = convert(field, selector, problems);
    let all = std::mem::take(&mut converted.match_expressions);
    // One that is longer is refused, and each is compared with all before it.
    for (index, mut expression) in all.into_iter().take(MAX_PARTS).enumerate() {
        if !expressions(&normal)[..index].contains(&expressions(&normal)[index]) {
            let field = format!("{field_of_all}[{index}].values");
            expression.values = problems.once(&field, &expression.values);
            converted.match_expressions.push(expression);
        }
    }
    converted
}

fn expressions(selector: &LabelSelector) -> &[LabelSelectorRequirement] {
    selector.match_expressions.as_deref().unwrap_or_default()
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

fn convert(
    field: &str,
    selector: &LabelSelector,
    problems: &mut Problems<'_>,
) -> v1::LabelSelector {
    let labels = selector.match_labels.iter().flatten();
    for (key, value) in labels.clone() {
        let field = format!("{field}.matchLabels[{key:?}]");
        check_label(&field, label::check_key(key), problems);
        check_label(&field, label::check_value(value), problems);
    }
    let expressions = expressions(selector).iter().enumerate();
    v1::LabelSelector {
        match_labels: labels
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        match_expressions: expressions
            .map(|(index, expression)| {
                let field = format!("{field}.matchExpressions[{index}]");
                requirement(&field, expression, problems)
            })
            .collect(),
    }
}

fn check_label(field: &str, checked: Result<(), String>, problems: &mut Problems<'_>) {
    if let Err(message) = checked {
        problems.add(field, message);
    }
}

fn requirement(
    field: &str,
    expression: &LabelSelectorRequirement,
    problems: &mut Problems<'_>,
) -> v1::LabelSelectorRequirement {
    let values = expression.values.clone().unwrap_or_default();
    check_label(
        &format!("{field}.key"),
        label::check_key(&expression.key),
        problems,
    );
    for (index, value) in values.iter().enumerate() {
        let field = format!("{field}.values[{index}]");
        check_label(&field, label::check_value(value), problems);
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
