//! Where a drill makes a worker panic: with the feature `drill`, which no
//! product is built with, at the stage that the environment names, once a file
//! is there. Without it, nothing is left of this. Imports nothing from this
//! crate.

/// Stages of a worker's pass. Each but the first is visited with frames alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Before commands are drained.
    Commands,
    /// Frames have been received.
    Open,
    /// They have been opened.
    Deliver,
    /// Frames are about to be sealed.
    Seal,
    /// They have been sealed.
    Transmit,
    /// Frames have been read from the tap.
    Ingest,
}

/// Panics if it is to.
#[cfg(not(feature = "drill"))]
#[inline(always)]
pub(crate) fn point(_: Stage) {}

#[cfg(feature = "drill")]
pub(crate) use armed::point;

#[cfg(feature = "drill")]
mod armed {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    use super::Stage;

    /// `STAGE:FILE`: at this stage, once the file is there.
    const VARIABLE: &str = "TIPSEC_DRILL_PANIC";

    impl Stage {
        const fn name(self) -> &'static str {
            match self {
                Self::Commands => "commands",
                Self::Open => "open",
                Self::Deliver => "deliver",
                Self::Seal => "seal",
                Self::Transmit => "transmit",
                Self::Ingest => "ingest",
            }
        }
    }

    struct Armed {
        stage: String,
        file: PathBuf,
    }

    fn armed() -> Option<Armed> {
        let text = std::env::var(VARIABLE).ok()?;
        let (stage, file) = text.split_once(':')?;
        Some(Armed {
            stage: stage.to_owned(),
            file: file.into(),
        })
    }

    pub(crate) fn point(stage: Stage) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        if let Some(armed) = ARMED.get_or_init(armed)
            && armed.stage == stage.name()
            && armed.file.exists()
        {
            panic!("a drill wants a panic at the stage {}", stage.name());
        }
    }
}
