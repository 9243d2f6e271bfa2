//! What the benchmarks' commands share: where results go (the terminal, a
//! report file, a page), and how often and how long is measured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tipsec_bench::results::Run;
use tipsec_bench::{Error, Result, report_html};

#[derive(Args)]
pub(super) struct Output {
    /// Interleaved rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one sample.
    #[arg(long, default_value_t = 0.5, value_parser = super::wire::seconds)]
    seconds: f64,
    #[command(flatten)]
    files: Files,
}

impl Output {
    pub(super) fn rounds(&self) -> usize {
        self.rounds as usize
    }

    pub(super) fn sample(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// [`Files::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.files.check()
    }

    /// [`Files::tell`].
    pub(super) fn tell(&self, run: &Run) -> Result<bool> {
        self.files.tell(run)
    }
}

#[derive(Args)]
pub(super) struct Files {
    /// Write the results here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report here, an HTML page with plots.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Files {
    /// Whether results can be written, before anything is measured.
    pub(super) fn check(&self) -> Result<()> {
        for file in [&self.json, &self.report].into_iter().flatten() {
            check_directory(file)?;
        }
        Ok(())
    }

    /// Prints and writes; false if frames are unaccounted for.
    pub(super) fn tell(&self, run: &Run) -> Result<bool> {
        // Nobody may be listening any more.
        let _ = run.print(&mut std::io::stdout().lock());
        if let Some(path) = &self.json {
            run.write(path)?;
        }
        if let Some(path) = &self.report {
            report_html::write(std::slice::from_ref(run), path)?;
        }
        Ok(run.unaccounted().next().is_none())
    }
}

/// Says now, and not after the last round, that a file cannot be written.
fn check_directory(file: &Path) -> Result<()> {
    // A name alone has an empty parent, which is here.
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let what = format!("write {}: no such directory", file.display());
    std::fs::metadata(parent.unwrap_or(Path::new("."))).map_err(Error::io(what))?;
    Ok(())
}
