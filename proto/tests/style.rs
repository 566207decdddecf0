//! Rules of style that the reference keeps, so that its JSON reads well and every client finds the
//! same shapes.

use pharos_proto::DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTOR_SET).expect("a descriptor");
    let ours = set.file.into_iter();
    let ours = ours.filter(|file| file.package() == "pharos.v1");
    let ours: Vec<_> = ours.collect();
    assert!(ours.len() > 5);
    ours
}

/// Enums in a message, at any depth.
fn enums_in(message: &DescriptorProto) -> Vec<&EnumDescriptorProto> {
    let nested = message.nested_type.iter().flat_map(enums_in);
    message.enum_type.iter().chain(nested).collect()
}

/// `DualStackPools` as `DUAL_STACK_POOLS`.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

/// So that JSON reads `ASSIGNED` and `TCP`, and a value that was left out is told from every other.
#[test]
fn enums_are_nested_with_unprefixed_values_and_zero_is_unspecified() {
    let files = files();
    let mut seen = 0;
    for file in &files {
        let top: Vec<&str> = file.enum_type.iter().map(|one| one.name()).collect();
        assert!(top.is_empty(), "not nested: {top:?}");
        for one in file.message_type.iter().flat_map(enums_in) {
            let prefix = screaming(one.name());
            let (zero, others) = one.value.split_first().expect("a value");
            assert_eq!(zero.number(), 0, "{}", one.name());
            assert_eq!(zero.name(), format!("{prefix}_UNSPECIFIED"));
            for value in others {
                let name = value.name();
                assert!(!name.starts_with(&format!("{prefix}_")), "{name}");
                assert!(value.number() > 0, "{name}");
            }
            seen += 1;
        }
    }
    assert!(seen > 10);
}
