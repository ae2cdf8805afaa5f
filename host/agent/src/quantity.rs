//! Resource quantities (`100m`, `1.5Gi`) as whole numbers, exactly.

/// 10⁻⁹ of the unit: the smallest part that a quantity can name.
const NANOS: i128 = 1_000_000_000;

/// Divides `value` by `divisor`, both as Kubernetes writes quantities, rounding up.
///
/// `None` if either is no quantity, or the divisor is zero.
pub(crate) fn divided(value: &str, divisor: &str) -> Option<i128> {
    let (value, divisor) = (nanos(value)?, nanos(divisor)?);
    let whole = value.checked_div(divisor)?;
    Some(if value % divisor == 0 { whole } else { whole + 1 })
}

fn nanos(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+'));
    let (number, suffix) = text.split_at(split.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (times, over) = multiplier(suffix)?;
    digits.checked_mul(times)?.checked_mul(NANOS)?.checked_div(scale.checked_mul(over)?)
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |power: u32| 10_i128.checked_pow(power);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, NANOS),
        "u" => (1, decimal(6)?),
        "m" => (1, decimal(3)?),
        "k" => (decimal(3)?, 1),
        "M" => (decimal(6)?, 1),
        "G" => (decimal(9)?, 1),
        "T" => (decimal(12)?, 1),
        "P" => (decimal(15)?, 1),
        "E" => (decimal(18)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => (decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?)?, 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_exactly_and_rounds_up() {
        let cases = [
            ("100m", "1m", Some(100)),
            ("100m", "1", Some(1)),
            ("1", "1", Some(1)),
            ("1500m", "1", Some(2)),
            ("64Mi", "1", Some(67_108_864)),
            ("64Mi", "1Mi", Some(64)),
            ("1.5Gi", "1Mi", Some(1536)),
            ("1e3", "1", Some(1000)),
            ("many", "1", None),
            ("", "1", None),
            ("1", "0", None),
        ];
        for (value, divisor, expected) in cases {
            assert_eq!(divided(value, divisor), expected, "{value} / {divisor}");
        }
    }
}
