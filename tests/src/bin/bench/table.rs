//! Figures side by side.

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// With D-Shield.
    pub with: f64,
    /// The same work without; what that was is in `what` or the peer's name. 0 when it could not be measured.
    pub without: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// What the peer is.
    pub peer: &'static str,
}

/// Prints to stdout. The ratio is with ÷ without: for times less is better, for rates more.
pub fn print(rows: &[Row]) {
    let widest = rows.iter().map(|row| row.what.len()).max().unwrap_or(0).max(4);
    println!("\n{:widest$}  {:>12}  {:>12}  {:>6}  unit  without D-Shield", "what", "D-Shield", "without", "ratio");
    for Row { what, with, without, unit, peer } in rows {
        let [without, ratio] = if *without > 0.0 {
            [format!("{without:.2}"), format!("{:.2}", with / without)]
        } else {
            ["-".into(), "-".into()]
        };
        println!("{what:widest$}  {with:>12.2}  {without:>12}  {ratio:>6}  {unit:<4}  {peer}");
    }
}
