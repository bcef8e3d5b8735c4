//! A panic ends what it happened in and nothing else, and says where it was.
//!
//! What reaches the log is the place in the source and, where the message is a literal, the message: neither
//! can hold anything that a peer chose.

use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// Characters of a message that are worth a line in a log.
const MAX_MESSAGE: usize = 120;

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}
static HOOK: Once = Once::new();

/// Do `work`; if it panics, where that was. What it worked on is to be thrown away then.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Panics elsewhere in the process are as loud as they were: theirs is the hook that was there before.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if IS_CONTAINED.get() {
                PLACE.replace(Some(place_of(info)));
            } else {
                before(info);
            }
        }));
    });
    let was = IS_CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.set(was);
    done.map_err(|_| PLACE.take().unwrap_or_else(|| "somewhere".into()))
}

/// The crate, file and line, and a literal message.
fn place_of(info: &PanicHookInfo<'_>) -> String {
    let mut place = "somewhere".to_string();
    if let Some(location) = info.location() {
        let path: Vec<&str> = location.file().split(['/', '\\']).collect();
        let source = path.iter().position(|part| *part == "src").unwrap_or(0);
        let path = path[source.saturating_sub(1)..].join("/");
        place = format!("{path}:{}:{}", location.line(), location.column());
    }
    if let Some(message) = info.payload().downcast_ref::<&'static str>() {
        place.push_str(": ");
        place.extend(message.chars().take(MAX_MESSAGE));
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_where_but_not_what_a_peer_said() {
        let said = contained(|| panic!("a literal")).unwrap_err();
        assert!(said.starts_with("src/containment.rs:"), "{said}");
        assert!(said.ends_with(": a literal"), "{said}");
        let evil = "\x1b[31m".to_string();
        let said = contained(|| panic!("bad name {evil}")).unwrap_err();
        assert!(said.starts_with("src/containment.rs:"), "{said}");
        assert!(!said.contains("bad name"), "{said}");
        assert_eq!(contained(|| 5), Ok(5));
    }

    #[test]
    fn containment_nests() {
        let inner = contained(|| contained(|| panic!("inner")).is_err());
        assert_eq!(inner, Ok(true));
        assert!(contained(|| panic!("outer")).is_err());
    }
}
