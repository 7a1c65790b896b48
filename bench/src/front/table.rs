//! Medians and ratios as a table in Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    Measured,
    scenario::{Figure, Of, Scenario},
};

/// One thing that was measured, in all rounds.
pub(super) struct Column {
    pub(super) measured: Measured,
    pub(super) reports: Vec<Value>,
}

impl Column {
    pub(super) fn new(measured: Measured) -> Self {
        Self { measured, reports: Vec::new() }
    }

    /// What is shown of a figure; nothing where the reports have none.
    fn value(&self, figure: &Figure) -> Option<f64> {
        let mut values: Vec<f64> = self.reports.iter().filter_map(|report| report.pointer(figure.pointer)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        match figure.of {
            Of::Worst => values.last().copied(),
            Of::Median => {
                let middle = values.len() / 2;
                let upper = *values.get(middle)?;
                let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
                Some(f64::midpoint(lower, upper))
            }
        }
    }
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A report in a line.
pub(super) fn line(scenario: &Scenario, report: &Value) -> String {
    let told = scenario.figures.iter().filter_map(|figure| {
        let value = report.pointer(figure.pointer)?.as_f64()?;
        // What should be 0 is told where it is not.
        (figure.of == Of::Median || value > 0.0).then(|| format!("{} {}", figure.label, shown(Some(value), figure.digits)))
    });
    told.collect::<Vec<_>>().join("; ")
}

/// The table of a scenario: a row for each figure, a column for each thing that was measured, and after
/// Natter's the ratio to the others.
pub(super) fn table(scenario: &Scenario, columns: &[Column]) -> String {
    let mut out = format!("\n### {}: {}\n\n|  |", scenario.name, scenario.about);
    let (natter, others) = match columns.split_first() {
        Some((natter, others)) => (Some(natter), others),
        None => (None, columns),
    };
    // Writing to a String cannot fail.
    for column in columns {
        let _ = write!(out, " {} |", column.measured);
    }
    for other in others {
        let _ = write!(out, " Natter / {} |", other.measured);
    }
    let _ = writeln!(out, "\n|---|{}", "---:|".repeat(columns.len() + others.len()));
    for figure in scenario.figures {
        let of_natter = natter.and_then(|column| column.value(figure));
        let _ = write!(out, "| {} |", figure.label);
        for column in columns {
            let _ = write!(out, " {} |", shown(column.value(figure), figure.digits));
        }
        for other in others {
            let ratio = of_natter.zip(other.value(figure)).filter(|&(_, other)| figure.of == Of::Median && other > 0.0);
            let _ = write!(out, " {} |", shown(ratio.map(|(natter, other)| natter / other), 2));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::front::{natter::Sync, scenario::USUAL};

    #[test]
    fn a_table_has_medians_ratios_and_the_worst_of_what_should_be_0() {
        let report = |rate: u64, lost: u64| json!({"deliveries_per_s": rate, "lost": lost});
        let natter = Column { measured: Measured::Natter(Sync::AsShipped), reports: vec![report(10, 0), report(30, 7), report(20, 0)] };
        let limit = Column { measured: Measured::Limit, reports: vec![report(40, 0), report(60, 0)] };
        let table = table(USUAL[0], &[natter, limit]);
        assert!(table.contains("|  | Natter | limit | Natter / limit |\n|---|---:|---:|---:|\n"), "{table}");
        assert!(table.contains("| deliveries/s | 20 | 50 | 0.40 |\n"), "{table}");
        assert!(table.contains("| lost (most) | 7 | 0 | – |\n"), "{table}");
        assert!(table.contains("| NATS, µs | – | – | – |\n"), "{table}");
    }
}
