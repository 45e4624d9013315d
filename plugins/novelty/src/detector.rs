//! The models of all series, and the judgement of their values.

use telltale_plugin::{
    Detector, Fault, Finding, FindingType, Observation, State, Verdict, Watchlist, log,
};

use crate::coder::{Coder, Writer};
use crate::light::{Light, LightScored};
use crate::model::{ALL_PARTS, PARTS, Part, WEIGHTS};
use crate::saved;
use crate::series::{Scored, Series};
use crate::settings::{Preset, Settings};

/// The strength from which on a value is a finding: the score is then 0.5.
const STRENGTH_MIN: f32 = 1.0;

/// A deviation is told up to this.
const DEVIATION_MAX: f64 = 1e6;

/// The detector: a model for each series.
#[derive(Debug, Default)]
pub struct Novelty {
    settings: Settings,
    series: Watchlist<Known>,
}

/// What is known of a series.
#[derive(Debug, Clone)]
pub enum Known {
    /// All of it.
    Full(Box<Series>),
    /// Its levels.
    Light(Box<Light>),
}

impl Known {
    /// Nothing yet.
    pub fn new(preset: Preset) -> Self {
        match preset {
            Preset::Full => Self::Full(Box::default()),
            Preset::Light => Self::Light(Box::default()),
        }
    }

    /// Whether it is of this preset.
    pub fn is_of(&self, preset: Preset) -> bool {
        matches!((self, preset), (Self::Full(_), Preset::Full) | (Self::Light(_), Preset::Light))
    }

    /// How many bytes it is saved in.
    pub fn size(&self) -> usize {
        let mut writer = Writer::default();
        self.clone().code(&mut writer);
        writer.bytes.len()
    }

    /// Saves or restores it.
    pub fn code(&mut self, coder: &mut impl Coder) {
        match self {
            Self::Full(series) => series.code(coder),
            Self::Light(light) => light.code(coder),
        }
    }

    /// Judges a value, then takes it in: its score, and a finding if it is one.
    pub fn judge(
        &mut self,
        settings: &Settings,
        time_ns: u64,
        value: f64,
    ) -> (f64, Option<Judged>) {
        let values_max = settings.warm_up_values;
        let (strength, judged) = match self {
            Self::Full(series) => {
                let scored = series.score(&WEIGHTS, values_max, time_ns, value);
                (scored.strength, Judged::Full(scored))
            }
            Self::Light(light) => {
                let scored = light.score(values_max, time_ns, value);
                (scored.strength, Judged::Light(scored))
            }
        };
        let strength = strength * settings.sensitivity;
        // What is kept is finite, so this is never so; a verdict with a NaN
        // would end the instance.
        if !strength.is_finite() {
            *self = Self::new(settings.preset);
            return (0.0, None);
        }
        let score = f64::from(strength) / (1.0 + f64::from(strength));
        (score, (strength >= STRENGTH_MIN).then_some(judged))
    }
}

/// What is told of a finding.
#[derive(Debug, Clone, Copy)]
pub enum Judged {
    /// By all that is known.
    Full(Scored),
    /// By the levels alone.
    Light(LightScored),
}

impl Judged {
    fn finding(self, series: u32, score: f64, value: f64) -> Finding {
        let (expected, reach, deviation, type_, note) = match self {
            Self::Full(scored) => {
                let deviation = (value - scored.expected) / scored.scale;
                (
                    scored.expected,
                    4.0 * scored.scale,
                    deviation,
                    type_of(&scored, value),
                    words(&scored),
                )
            }
            Self::Light(scored) => {
                let deviation = (value - scored.nearest) / scored.width;
                let type_ = if deviation > 0.0 { FindingType::Spike } else { FindingType::Drop };
                let note = format!(
                    "a level not seen before, {:.0} % of the usual range from the nearest one",
                    100.0 * deviation.abs()
                );
                (scored.nearest, 0.03 * scored.width, deviation, type_, note)
            }
        };
        Finding {
            deviation: Some(deviation.clamp(-DEVIATION_MAX, DEVIATION_MAX)),
            expected: Some(expected),
            lower: Some(expected - reach),
            upper: Some(expected + reach),
            note: Some(note),
            ..Finding::new(series, type_, score)
        }
    }
}

/// In which way the value is odd: a level shift if those before it were off as
/// far.
fn type_of(scored: &Scored, value: f64) -> FindingType {
    let (off, off_before) = (value - scored.mean, scored.course - scored.mean);
    if off_before.abs() > 0.5 * off.abs() && off * off_before > 0.0 {
        FindingType::LevelShift
    } else if off > 0.0 {
        FindingType::Spike
    } else {
        FindingType::Drop
    }
}

/// Which part spoke loudest.
fn words(scored: &Scored) -> String {
    if scored.parts == [0.0; PARTS] {
        return "far outside the whole range that was seen before".to_owned();
    }
    let shares = WEIGHTS.shares(&scored.parts);
    let mut loudest = 0;
    for (at, share) in shares.iter().enumerate() {
        if *share > shares[loudest] {
            loudest = at;
        }
    }
    let percent = 100.0 * scored.parts[loudest];
    let errors = scored.parts[ALL_PARTS.len() - 1];
    let what = match ALL_PARTS[loudest] {
        Part::Level => format!("a level {percent:.0} % of the range from any seen before"),
        Part::Course => format!("a course {percent:.0} % of the range from any seen before"),
        Part::Season => format!("{percent:.0} % of the range off what this time of day has shown"),
        Part::Jump => format!("a jump {percent:.0} % of the range from any seen before"),
        Part::Rarity => "a course as rare as one in very many".to_owned(),
        Part::Surprise => "far from what the last values led to expect".to_owned(),
    };
    format!("{what}; {errors:.1} usual errors from the prediction")
}

impl Detector for Novelty {
    type Config = Settings;

    /// On an error the old settings stay. Another preset starts afresh: what
    /// the one knows the other can't use.
    fn configure(&mut self, settings: Settings) -> Result<(), Fault> {
        settings.check()?;
        if settings.preset != self.settings.preset {
            let preset = settings.preset;
            self.series.iter_mut().for_each(|(_, known)| *known = Known::new(preset));
        }
        self.settings = settings;
        Ok(())
    }

    /// Each value is judged by those before it, and only then becomes one of
    /// them.
    fn observe(&mut self, observation: &Observation, verdict: &mut Verdict) -> Result<(), Fault> {
        let settings = &self.settings;
        self.series.follow(observation, || Known::new(settings.preset));
        verdict.scores.reserve(observation.values.len());
        let time_ns = observation.tick.time_ns;
        for shown in self.series.shown(observation) {
            let (score, judged) = shown.known.judge(settings, time_ns, shown.value);
            if let Some(judged) = judged {
                verdict.findings.push(judged.finding(shown.id, score, shown.value));
            }
            verdict.scores.push(score);
        }
        Ok(())
    }
}

impl State for Novelty {
    const VERSION: u32 = saved::VERSION;

    fn save(&self) -> Vec<u8> {
        saved::save(self.settings.preset, self.series.iter())
    }

    fn restore(&mut self, from_version: u32, bytes: &[u8]) -> Result<(), String> {
        if from_version == saved::VERSION {
            self.series.restore(saved::load(self.settings.preset, bytes));
        } else {
            log::info(&format!("starts afresh: version {from_version} of its state is unknown"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::{Detecting, Tick};

    const MINUTE_NS: u64 = 60_000_000_000;

    /// Noise from -1 to 1, the same at each run.
    fn noise() -> impl Iterator<Item = f64> {
        let mut seed = 42_u64;
        std::iter::repeat_with(move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
    }

    fn detector(config: &str) -> Detecting<Novelty> {
        let mut detector = Detecting::default();
        detector.configure(config).unwrap();
        detector
    }

    /// Shows the values of one minute; all series are declared each time.
    fn show(detector: &mut Detecting<Novelty>, minute: u64, values: &[(u32, f64)]) -> Verdict {
        let ids: Vec<_> = values.iter().map(|(id, _)| *id).collect();
        let tick = Tick { number: minute, time_ns: minute * MINUTE_NS };
        let shown = Observation { tick, ..Observation::of(minute, &ids, values) };
        detector.observe(&shown).unwrap()
    }

    /// A day of noise around 10, and then these values: their verdicts.
    fn after_a_day(config: &str, values: &[f64]) -> Vec<Verdict> {
        let mut detector = detector(config);
        let day = noise().take(1600).map(|noise| 10.0 + noise);
        for (minute, value) in day.enumerate() {
            show(&mut detector, minute as u64, &[(7, value)]);
        }
        let mut minutes = 1600..;
        values
            .iter()
            .map(|value| show(&mut detector, minutes.next().unwrap(), &[(7, *value)]))
            .collect()
    }

    #[test]
    fn a_spike_and_a_drop_after_a_day_are_found() {
        for config in ["{}", r#"{"preset":"light"}"#] {
            for (value, type_) in [(20.0, FindingType::Spike), (0.0, FindingType::Drop)] {
                let verdict = &after_a_day(config, &[10.3, value])[1];
                let finding = &verdict.findings[0];
                assert!(verdict.scores[0] > 0.6 && finding.score == verdict.scores[0]);
                assert_eq!(finding.type_, type_);
                let [lower, expected, upper] =
                    [finding.lower, finding.expected, finding.upper].map(Option::unwrap);
                assert!(lower < expected && expected < upper && expected > 8.0 && upper < 15.0);
                assert!(finding.note.as_ref().unwrap().len() < 200);
            }
            assert!(after_a_day(config, &[10.3])[0].scores[0] < 0.5);
        }
    }

    #[test]
    fn a_lasting_new_level_is_a_level_shift_after_its_first_values() {
        let at =
            |course, value| type_of(&Scored { mean: 10.0, course, ..Scored::default() }, value);
        assert_eq!(at(10.0, 20.0), FindingType::Spike);
        assert_eq!(at(10.5, 2.0), FindingType::Drop);
        assert_eq!(at(18.0, 20.0), FindingType::LevelShift);
        assert_eq!(at(3.0, 20.0), FindingType::Spike);
        let verdicts = after_a_day("{}", &[20.0; 12]);
        assert_eq!(verdicts[0].findings[0].type_, FindingType::Spike);
    }

    #[test]
    fn constants_never_alarm() {
        for (config, level) in
            [("{}", 0.0), ("{}", 0.1), ("{}", 1e15), (r#"{"preset":"light"}"#, -5.0)]
        {
            let mut detector = detector(config);
            for minute in 0..3000 {
                let wobble = 1.0 + [0.0, 1e-16, -1e-16][minute as usize % 3];
                let verdict = show(&mut detector, minute, &[(7, level * wobble)]);
                assert!(verdict.scores[0] < 0.5 && verdict.findings.is_empty(), "{level} {minute}");
            }
        }
    }

    #[test]
    fn what_was_learned_goes_on_bit_for_bit() {
        for config in ["{}", r#"{"preset":"light"}"#] {
            let (mut old, mut new) = (detector(config), detector(config));
            let mut noise = noise();
            for minute in 0..2000 {
                let values = [3, 7].map(|id| (id, noise.next().unwrap() * f64::from(id)));
                show(&mut old, minute, &values);
            }
            old.hand_over(&mut new).unwrap();
            for minute in 2000..2500 {
                let values = [3, 7].map(|id| (id, noise.next().unwrap() * f64::from(id) * 1.3));
                let verdicts = [&mut old, &mut new].map(|of| show(of, minute, &values).scores);
                assert_eq!(verdicts[0], verdicts[1]);
            }
            assert_eq!(new.plugin.restore(saved::VERSION + 1, b"?"), Ok(()));
        }
    }

    #[test]
    fn the_largest_numbers_are_survived() {
        let mut detector = detector("{}");
        let values = [f64::MAX, f64::MIN, 0.0, f64::MIN_POSITIVE, -1e300, 1e17, 5.0];
        for (minute, value) in values.iter().cycle().take(5000).enumerate() {
            let verdict = show(&mut detector, minute as u64, &[(7, *value)]);
            assert!((0.0..=1.0).contains(&verdict.scores[0]), "{minute} {value}");
        }
    }

    #[test]
    fn a_series_takes_less_than_it_may() {
        assert!(size_of::<Series>() <= 4096, "{}", size_of::<Series>());
        assert!(size_of::<Light>() <= 512, "{}", size_of::<Light>());
    }

    /// Shows a value a second; how many of them open a finding.
    fn found_at_one_a_second(values: impl Iterator<Item = f64>) -> usize {
        let mut series = Series::default();
        let strengths = values.enumerate().map(|(second, value)| {
            series.score(&WEIGHTS, 1500, second as u64 * 1_000_000_000, value).strength
        });
        strengths.filter(|strength| *strength >= STRENGTH_MIN).count()
    }

    #[test]
    fn a_fast_series_is_quiet_and_a_lasting_step_of_it_is_found() {
        let day = 100_000;
        let calm = || noise().take(day).map(|noise| 0.2 + 0.1 * noise);
        assert_eq!(found_at_one_a_second(calm()), 0);
        assert!(found_at_one_a_second(calm().chain(vec![0.9; 300])) > 0);
        for at in 0..20 {
            let spike = calm().take(90_000 + at).chain([5.0]);
            assert_eq!(found_at_one_a_second(spike), 1, "{at}");
        }
        // A burst of five seconds each hour is no news, and neither is the first.
        let bursts = (0..2 * day).map(|second| if second % 3600 < 5 { 40.0 } else { 0.0 });
        assert_eq!(found_at_one_a_second(bursts), 0);
        let one = (0..2 * day).map(|second| if second == 150_000 { 40.0 } else { 0.0 });
        assert_eq!(found_at_one_a_second(one), 0);
    }

    #[test]
    fn an_anomaly_that_comes_again_is_found_again() {
        let mut values = vec![10.3; 100];
        (values[0], values[60]) = (20.0, 20.0);
        let verdicts = after_a_day("{}", &values);
        assert!(verdicts[0].scores[0] > 0.5 && verdicts[60].scores[0] > 0.5);
        assert!(verdicts[50].scores[0] < 0.5);
    }

    #[test]
    fn another_preset_starts_afresh() {
        let mut detector = detector("{}");
        for (minute, noise) in noise().take(200).enumerate() {
            show(&mut detector, minute as u64, &[(7, noise)]);
        }
        detector.configure(r#"{"preset":"light"}"#).unwrap();
        assert_eq!(show(&mut detector, 200, &[(7, 1e9)]).scores[0], 0.0);
        assert!(detector.configure(r#"{"sensitivity":0}"#).is_err());
    }
}
