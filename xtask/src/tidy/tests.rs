use super::*;

fn messages(path: &str, text: &str) -> Vec<String> {
    check_file(Path::new(path), text, &[])
        .into_iter()
        .map(|finding| finding.to_string())
        .collect()
}

const PURE_FILE: &str = "ipam-service/src/state/pool.rs";

#[test]
fn a_pure_module_that_names_a_runtime_is_caught_with_its_line() {
    let found = messages(PURE_FILE, "//! Pools.\n\nuse tokio::sync::mpsc;\n");
    assert_eq!(
        found,
        ["ipam-service/src/state/pool.rs:3: error: a pure module names `tokio`: no runtime"]
    );
}

#[test]
fn every_impure_name_is_caught() {
    for (name, _) in IMPURE {
        let found = messages(PURE_FILE, &format!("fn f() {{ {name} }}\n"));
        assert!(!found.is_empty(), "{name} was not seen");
    }
}

#[test]
fn an_async_function_in_a_pure_module_is_caught() {
    assert_eq!(messages(PURE_FILE, "pub async fn f() {}\n").len(), 1);
}

#[test]
fn comments_strings_and_longer_names_are_free() {
    let text = r###"
        //! There is no tokio in here, and nothing async.
        /* neither /* nested */ tokio */
        const TEXT: &str = "kube \" tokio";
        const RAW: &str = r#"tokio " sqlx"#;
        const QUOTE: char = '"';
        fn brand<'a>(kubernetes: &'a str, grand_total: u32) -> char { '\'' }
    "###;
    assert_eq!(messages(PURE_FILE, text), [""; 0]);
}

#[test]
fn code_after_a_quote_character_is_still_seen() {
    assert_eq!(
        messages(PURE_FILE, "const Q: char = '\"'; use tokio::x;\n").len(),
        1
    );
}

#[test]
fn a_module_is_its_file_and_its_folder_and_nothing_beside() {
    for (path, pure) in [
        ("announcer/src/plan.rs", true),
        ("announcer/src/plan/tests.rs", true),
        ("announcer/src/planner.rs", false),
        ("announcer/src/l2/socket.rs", false),
    ] {
        let found = messages(path, "use tokio::net;\n");
        assert_eq!(!found.is_empty(), pure, "{path}");
    }
}

#[test]
fn what_is_allowed_in_one_room_is_not_in_another() {
    let text = "use pharos_proto::v1;\n";
    assert_eq!(messages("k8s-adapter/src/policy.rs", text), [""; 0]);
    assert_eq!(messages(PURE_FILE, text).len(), 1);
}

#[test]
fn a_test_may_read_the_clock_and_what_it_tests_may_not() {
    let clock = "let now = Instant::now();\n";
    assert_eq!(messages(PURE_FILE, clock).len(), 1);
    assert_eq!(
        messages(
            PURE_FILE,
            &format!("#[cfg(test)]\nmod tests {{\n{clock}}}\n")
        ),
        [""; 0]
    );
    assert_eq!(
        messages("ipam-service/src/state/pool/tests.rs", clock),
        [""; 0]
    );
}

#[test]
fn a_driver_may_name_what_a_pure_module_may_not() {
    assert_eq!(
        messages("ipam-service/src/engine/mod.rs", "use tokio::sync::mpsc;\n"),
        [""; 0]
    );
}

#[test]
fn a_long_file_warns_and_a_very_long_one_fails() {
    let findings = |lines: usize| check_file(Path::new("a.rs"), &"x\n".repeat(lines), &[]);
    assert_eq!(findings(500), []);
    assert!(!findings(501)[0].is_error() && !findings(800)[0].is_error());
    assert!(findings(801)[0].is_error());
}

#[test]
fn upper_case_sql_is_caught_outside_quotes_and_comments() {
    let clean = "-- Pools of a CLUSTER.\ncreate table pool (name text default 'A', \"B\" text);\n";
    assert_eq!(messages("1.sql", clean), [""; 0]);
    assert_eq!(
        messages("1.sql", "create TABLE pool (name text);\n").len(),
        1
    );
}

#[test]
fn a_word_without_a_place_is_caught_in_any_file() {
    for (word, _) in WORDS {
        assert_eq!(
            messages("README.md", &format!("a {word} b")).len(),
            1,
            "{word}"
        );
    }
    let forbid = ["example.org".to_owned()];
    assert_eq!(
        check_file(Path::new("a.toml"), "x = \"example.org\"", &forbid).len(),
        1
    );
}

#[test]
fn a_program_that_links_another_is_caught() {
    let package = |name: &str, dependencies: &[&str]| Package {
        name: name.to_owned(),
        dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
    };
    let good = [
        package("announcer", &["pharos-proto"]),
        package("e2e", &["pharos-testbed"]),
    ];
    assert_eq!(check_dependencies(&good), []);
    let bad = [
        package("announcer", &["ipam-service"]),
        package("e2e", &["k8s-adapter"]),
    ];
    assert_eq!(check_dependencies(&bad).len(), 2);
}

#[test]
fn this_workspace_has_packages_to_check() {
    let packages = dependencies().unwrap();
    assert!(packages.iter().any(|package| package.name == "announcer"));
}

#[test]
fn a_second_tls_stack_in_the_lock_file_is_caught() {
    let lock = "[[package]]\nname = \"ring\"\n\n[[package]]\nname = \"openssl-sys\"\n";
    assert_eq!(
        messages("Cargo.lock", lock),
        ["Cargo.lock:5: error: `openssl-sys`: one TLS stack: rustls with ring"]
    );
}

/// What the check says of one row of a page, where `a.rs` is this file.
fn said_of(row: &str) -> Vec<String> {
    let file = r#"
        // #[test] fn only_in_a_comment() {}
        const TEXT: &str = "
            #[test]
            fn only_in_a_text() {}
        ";
        #[test]
        fn plain() {}
        #[tokio::test(flavor = "multi_thread")]
        #[should_panic]
        async fn on_a_runtime() {}
        fn helper() {}
    "#;
    let page = format!("| rule | test |\n|---|---|\n{row}\nA text with `no::test`.\n");
    let read = |path: &str| (path == "a.rs").then(|| file.to_owned());
    let found = pages::check(Path::new("docs/p.md"), &page, read).into_iter();
    found.map(|finding| finding.to_string()).collect()
}

#[test]
fn a_page_may_name_tests_and_decisions() {
    for row in [
        "| r | `a.rs::plain` |",
        "| `r` | `a.rs::plain`, `a.rs::on_a_runtime` |",
        "| r | [otherwise](decisions/0001-why.md) |",
    ] {
        assert_eq!(said_of(row), [""; 0], "{row}");
    }
}

#[test]
fn a_page_that_names_what_is_no_test_is_caught_with_its_line() {
    let cases = [
        ("`a.rs::gone`", "`a.rs` has no test `gone`"),
        ("`a.rs::plai`", "`a.rs` has no test `plai`"),
        ("`a.rs::helper`", "`a.rs` has no test `helper`"),
        (
            "`a.rs::only_in_a_comment`",
            "`a.rs` has no test `only_in_a_comment`",
        ),
        (
            "`a.rs::only_in_a_text`",
            "`a.rs` has no test `only_in_a_text`",
        ),
        ("`b.rs::plain`", "there is no file `b.rs`"),
        ("`plain`", "`plain` is not `path::name`"),
        ("by hand", "a rule without a test and without a decision"),
        ("", "a rule without a test and without a decision"),
    ];
    for (proof, message) in cases {
        let row = format!("| r | {proof} |");
        assert_eq!(
            said_of(&row),
            [format!("docs/p.md:3: error: {message}")],
            "{row}"
        );
    }
}
