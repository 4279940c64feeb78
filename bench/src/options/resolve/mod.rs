//! From sections to jobs: inheritance, defaults, groups, and the typed values of [`JobSpec`].
//!
//! A later section overrides an earlier one; options that exclude each other contradict only within one section.

mod check;
mod effect;
mod run;
mod target;
mod view;
mod workload;

use super::error::OptionError;
use super::section::{Section, Setting};
use super::spec::{ContinueOn, GlobalSpec, JobSpec, KbBase, LogSpec, MeasureSpec, Plan};
use super::value::Value;
use view::View;

pub use run::RunOptions;

/// Resolves sections to a plan.
///
/// # Errors
/// A value that its option does not take, options that contradict each other, a section that does not exist, or no
/// job at all.
pub fn plan(run: &RunOptions, sections: &[Section]) -> Result<Plan, OptionError> {
    let mut global: GlobalSpec = run.global.clone();
    let mut builder = Builder::default();
    for (level, section) in sections.iter().enumerate() {
        match &section.title {
            None => {
                builder.for_all(level, section);
                global.given.extend(section.settings.iter().map(given));
            }
            Some(title) => builder.job(level, title, section, run)?,
        }
    }
    builder.check_unused()?;
    run.check_sections(&builder.titles)?;
    if builder.jobs.is_empty() {
        let what = match global.given.first() {
            Some((name, value)) => format!("{name}={value} is for the jobs that follow, and none does"),
            None => "the job files have no section but [global]".to_owned(),
        };
        return Err(OptionError::NoJob { what });
    }
    Ok(Plan { global, jobs: builder.jobs })
}

fn given(setting: &Setting) -> (String, String) {
    (setting.def.name.to_owned(), setting.text.clone())
}

/// The jobs so far and what the next one inherits.
#[derive(Default)]
struct Builder<'a> {
    /// Options for all jobs: of the command line, then of the present job file, with their levels.
    inherited: Vec<(usize, &'a Setting)>,
    /// How many of `inherited` are the command line's.
    from_command_line: usize,
    source: usize,
    source_of_last_job: Option<usize>,
    jobs: Vec<JobSpec>,
    titles: Vec<String>,
    /// Jobs in the present reporting group.
    jobs_in_group: usize,
    group_id: u32,
}

impl<'a> Builder<'a> {
    fn for_all(&mut self, level: usize, section: &'a Section) {
        self.enter(section.source);
        self.inherited.extend(section.settings.iter().map(|setting| (level, setting)));
        if section.source == 0 {
            self.from_command_line = self.inherited.len();
        }
    }

    /// Forgets the options for all jobs of the job file before.
    fn enter(&mut self, source: usize) {
        if self.source != source {
            self.inherited.truncate(self.from_command_line);
            self.source = source;
        }
    }

    fn job(
        &mut self,
        level: usize,
        title: &str,
        section: &'a Section,
        run: &RunOptions,
    ) -> Result<(), OptionError> {
        self.enter(section.source);
        self.titles.push(title.to_owned());
        let own = section.settings.iter().map(|setting| (level, setting));
        let settings: Vec<_> = self.inherited.iter().copied().chain(own).collect();
        let view = View::new(title, &settings, Some(level))?;
        let mut job = job_spec(title, section, &view)?;
        check::job(&view, &job)?;
        job.notes = effect::own_options(&view, &job);
        job.notes.extend(effect::less_than_fio(&view, &job));
        run.check_job(&view, &job)?;
        if !run.wants(title) {
            return Ok(());
        }
        // fio: job files follow each other.
        job.wait_for_previous |=
            section.source > 1 && self.source_of_last_job.is_some_and(|last| last != section.source);
        if (job.wait_for_previous || view.flag("new_group")) && self.jobs_in_group > 0 {
            self.group_id += 1;
            self.jobs_in_group = 0;
        }
        job.group_id = self.group_id;
        self.jobs_in_group += 1;
        self.source_of_last_job = Some(section.source);
        self.jobs.push(job);
        Ok(())
    }

    /// Reads options for all jobs even where no job follows them.
    fn check_unused(&self) -> Result<(), OptionError> {
        View::new("global", &self.inherited, None).map(|_| ())
    }
}

fn job_spec(title: &str, section: &Section, view: &View) -> Result<JobSpec, OptionError> {
    // A name= inside the section renames the job; one inherited would rename all and is refused by the reader.
    let name = view
        .last("name")
        .filter(|given| given.own)
        .map_or_else(|| title.to_owned(), |given| given.text.clone());
    Ok(JobSpec {
        name,
        description: view.text("description"),
        given: section.settings.iter().map(given).collect(),
        notes: Vec::new(),
        kb_base: view.kb_base,
        group_id: 0,
        group_reporting: view.flag("group_reporting"),
        wait_for_previous: view.flag("stonewall"),
        num_jobs: view.number_u32("numjobs"),
        start_delay: view.time("startdelay"),
        cpus_allowed: match view.value("cpus_allowed") {
            Some(Value::Cpus(cpus)) => Some(cpus),
            _ => None,
        },
        continue_on: continue_on(view.choice("continue_on_error")),
        exit_all_on_error: view.flag("exitall_on_error"),
        target: target::target(view)?,
        workload: workload::workload(view)?,
        depth: workload::depth(view)?,
        end: workload::end(view),
        pace: workload::pace(view)?,
        verify: workload::verify(view)?,
        measure: measure(view),
        logs: logs(view, title),
    })
}

fn continue_on(word: &str) -> ContinueOn {
    ContinueOn {
        read: matches!(word, "read" | "io" | "all"),
        write: matches!(word, "write" | "io" | "all"),
        verify: matches!(word, "verify" | "all"),
    }
}

fn measure(view: &View) -> MeasureSpec {
    let reduced = view.flag("gtod_reduce");
    let percentiles = match view.value("percentile_list") {
        Some(Value::Percentiles(list)) => list,
        _ => Vec::new(),
    };
    MeasureSpec {
        slat: !reduced && !view.flag("disable_slat"),
        clat: !reduced && !view.flag("disable_clat"),
        lat: !reduced && !view.flag("disable_lat"),
        gtod_reduce: reduced,
        slat_percentiles: view.flag("slat_percentiles"),
        clat_percentiles: view.flag("clat_percentiles"),
        lat_percentiles: view.flag("lat_percentiles"),
        percentiles,
    }
}

fn logs(view: &View, title: &str) -> LogSpec {
    let prefix = |name| view.text(name).map(|text| if text.is_empty() { title.to_owned() } else { text });
    LogSpec {
        bandwidth: prefix("write_bw_log"),
        iops: prefix("write_iops_log"),
        latency: prefix("write_lat_log"),
        average_ms: view.number_u32("log_avg_msec"),
    }
}

/// How a size of this job is printed.
fn shown_bytes(view: &View, bytes: u64) -> String {
    let base: KbBase = view.kb_base;
    super::units::show_bytes(bytes, base)
}
