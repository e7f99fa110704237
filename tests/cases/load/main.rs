//! Many connections, long connections and scarce resources: nothing is lost and nothing leaks.

mod churn;
mod long_connection;
mod maximum;
mod pressure;
mod show_cost;
mod soak_plans;
mod soak_runs;
mod soak_verdicts;
