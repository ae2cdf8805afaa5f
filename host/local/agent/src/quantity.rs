//! Parses Kubernetes quantities (`250m`, `1Gi`, `1e3`) as exact numbers of thousandths.
//!
//! A thousandth is the finest step that a resource may have; a finer value is rounded up, as Kubernetes does.
//! Source: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

/// The suffixes and their factors: numerator, denominator.
const SUFFIXES: [(&str, i128, i128); 15] = [
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1_000),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
];

/// The maximum number of digits of a quantity. No resource needs more, and more could overflow.
const DIGITS_MAX: usize = 18;

/// Parses a quantity in thousandths of its unit (milli-CPU, thousandths of a byte). Returns `None` if `text`
/// is not a quantity.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let suffix = SUFFIXES.iter().find(|(suffix, ..)| text.ends_with(suffix));
    let (number, numerator, denominator) = match suffix {
        Some((suffix, numerator, denominator)) => {
            (text.strip_suffix(suffix)?, *numerator, *denominator)
        }
        None => exponent(text)?,
    };
    let (digits, fraction_digits) = decimal(number)?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction_digits).ok()?)?;
    let numerator = digits.checked_mul(numerator)?.checked_mul(1_000)?;
    let denominator = denominator.checked_mul(scale)?;
    Some(numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0))
}

/// Divides `value` by `divisor`, both written as Kubernetes quantities, and rounds up.
///
/// Returns `None` if either is not a quantity, or if the divisor is zero.
pub(crate) fn divided(value: &str, divisor: &str) -> Option<i128> {
    let (value, divisor) = (milli(value)?, milli(divisor)?);
    let whole = value.checked_div(divisor)?;
    Some(if value % divisor == 0 { whole } else { whole + 1 })
}

/// Splits `12e3` into its number and its power of ten.
fn exponent(text: &str) -> Option<(&str, i128, i128)> {
    let Some((number, exponent)) = text.split_once(['e', 'E']) else { return Some((text, 1, 1)) };
    let exponent: i32 = exponent.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs().min(u32::from(u8::MAX)))?;
    Some(if exponent < 0 { (number, 1, power) } else { (number, power, 1) })
}

/// Parses `-1.50` as its digits (-150) and the number of digits behind the point (2).
fn decimal(text: &str) -> Option<(i128, usize)> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || DIGITS_MAX < all.len() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((sign * all.parse::<i128>().ok()?, fraction.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_exactly() {
        let cases = [
            ("1", Some(1_000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("64Mi", Some(67_108_864_000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("100u", Some(1)),
            ("1n", Some(1)),
            ("-1", Some(-1_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("", None),
            ("Gi", None),
            ("1.2.3", None),
            ("ten", None),
            ("1e", None),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(text), expected, "{text}");
        }
    }

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
