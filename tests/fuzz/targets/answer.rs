#![no_main]

use keyway_fuzz::properties::answer::Stack;
use tokio::runtime::Runtime;

thread_local! {
    static RUNNING: (Runtime, Stack) = {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let stack = runtime.block_on(Stack::start());
        (runtime, stack)
    };
}

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| RUNNING.with(|(runtime, stack)| runtime.block_on(stack.check(bytes)))
);
