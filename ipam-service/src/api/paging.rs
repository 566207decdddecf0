//! Page sizes and page tokens.

use std::hash::{Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::status;
use crate::state::model::Revision;

/// Version of the tokens: another one is refused.
const VERSION: u8 = 1;

/// How many items a page has.
pub fn page_size(wire: i32) -> Result<u32, Status> {
    match u32::try_from(wire) {
        Err(_) => Err(status::invalid("page_size", "must not be negative")),
        Ok(0) => Ok(100),
        Ok(size) => Ok(size.min(1000)),
    }
}

/// Where the next page goes on: (version, filter digest, last key, revision of the first page).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    /// The last item of the page before.
    pub key: Vec<String>,
    /// Of the store at the first page.
    pub revision: Revision,
}

impl PageToken {
    /// The token as text, bound to the filter that it was made with.
    pub fn write(&self, filter: &impl Hash) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(digest(filter));
        bytes.extend(self.revision.to_be_bytes());
        for part in &self.key {
            let length = u16::try_from(part.len()).expect("names are short");
            bytes.extend(length.to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads `page_token`: `None` for the first page. A token of another filter, of another
    /// version or with another number of key parts is refused.
    pub fn read(text: &str, filter: &impl Hash, parts: usize) -> Result<Option<Self>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        let token = URL_SAFE_NO_PAD.decode(text).ok();
        let Some(token) = token.and_then(|bytes| Self::parse(&bytes, parts)) else {
            return Err(status::invalid(
                "page_token",
                "is not a token of this server",
            ));
        };
        let (token, made_with) = token;
        if made_with != digest(filter) {
            let message = "was given for a request with other filters";
            return Err(status::invalid("page_token", message));
        }
        Ok(Some(token))
    }

    fn parse(bytes: &[u8], parts: usize) -> Option<(Self, [u8; 8])> {
        let (version, rest) = bytes.split_first()?;
        let (filter, rest) = rest.split_first_chunk::<8>()?;
        let (revision, mut rest) = rest.split_first_chunk::<8>()?;
        let mut key = Vec::with_capacity(parts);
        while !rest.is_empty() && key.len() < parts {
            let (length, tail) = rest.split_first_chunk::<2>()?;
            let (part, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            key.push(std::str::from_utf8(part).ok()?.to_owned());
            rest = tail;
        }
        let token = Self {
            key,
            revision: Revision::from_be_bytes(*revision),
        };
        (*version == VERSION && rest.is_empty() && token.key.len() == parts)
            .then_some((token, *filter))
    }
}

/// The same on every server of one build. Another build may refuse a token as one of other filters.
fn digest(filter: &impl Hash) -> [u8; 8] {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sha = Sha(Sha256::new());
    filter.hash(&mut sha);
    let digest: [u8; 32] = sha.0.finalize().into();
    *digest.first_chunk().expect("32 bytes have 8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_is_refused_with_another_filter_or_when_damaged() {
        let token = PageToken {
            key: vec!["east".to_owned(), String::new(), "web".to_owned()],
            revision: 7,
        };
        let text = token.write(&"filter");
        assert_eq!(
            PageToken::read(&text, &"filter", 3).expect("valid"),
            Some(token)
        );
        assert_eq!(PageToken::read("", &"filter", 3).expect("first page"), None);
        let refused = |text: &str, filter: &str, parts| {
            PageToken::read(text, &filter, parts)
                .expect_err("refused")
                .code()
        };
        assert_eq!(refused(&text, "other", 3), tonic::Code::InvalidArgument);
        assert_eq!(refused(&text, "filter", 1), tonic::Code::InvalidArgument);
        assert_eq!(
            refused(&text[..text.len() - 2], "filter", 3),
            tonic::Code::InvalidArgument
        );
        assert_eq!(refused("%%%", "filter", 3), tonic::Code::InvalidArgument);
    }
}
