//! Catching panics: a panic ends the connection or call that it happened in, and its location is logged.
//!
//! The log contains the location in the source and, if the message is a literal, the message. Neither can contain data
//! of a peer.

use std::cell::{Cell, RefCell};
use std::panic::{catch_unwind, set_hook, take_hook, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

/// Characters of a message that are worth a line in a log.
const MAX_MESSAGE: usize = 120;

thread_local! {
    static IS_CATCHING: Cell<bool> = const { Cell::new(false) };
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}
static HOOK: Once = Once::new();

/// Run `work`. If it panics, return the location; throw away what it worked on then.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Panics elsewhere in the process still go to the hook that was there before.
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if IS_CATCHING.get() {
                LOCATION.replace(Some(location_of(info)));
            } else {
                before(info);
            }
        }));
    });
    let was_catching = IS_CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    IS_CATCHING.set(was_catching);
    result.map_err(|_| LOCATION.take().unwrap_or_else(|| "somewhere".into()))
}

/// Return the crate, file and line, and a literal message.
fn location_of(info: &PanicHookInfo<'_>) -> String {
    let mut text = "somewhere".to_string();
    if let Some(location) = info.location() {
        let path: Vec<&str> = location.file().split(['/', '\\']).collect();
        let source = path.iter().position(|part| *part == "src").unwrap_or(0);
        let path = path[source.saturating_sub(1)..].join("/");
        text = format!("{path}:{}:{}", location.line(), location.column());
    }
    if let Some(message) = info.payload().downcast_ref::<&'static str>() {
        text.push_str(": ");
        text.extend(message.chars().take(MAX_MESSAGE));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_location_is_reported_and_nothing_that_a_peer_sent() {
        let text = catch_panic(|| panic!("a literal")).unwrap_err();
        assert!(text.starts_with("src/panic.rs:"), "{text}");
        assert!(text.ends_with(": a literal"), "{text}");
        let evil = "\x1b[31m".to_string();
        let text = catch_panic(|| panic!("bad name {evil}")).unwrap_err();
        assert!(text.starts_with("src/panic.rs:"), "{text}");
        assert!(!text.contains("bad name"), "{text}");
        assert_eq!(catch_panic(|| 5), Ok(5));
    }

    #[test]
    fn calls_nest() {
        let inner = catch_panic(|| catch_panic(|| panic!("inner")).is_err());
        assert_eq!(inner, Ok(true));
        assert!(catch_panic(|| panic!("outer")).is_err());
    }
}
