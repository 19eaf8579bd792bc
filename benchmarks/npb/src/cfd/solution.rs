//! The known solution (RNR-94-007, section 3.1.1).

use super::block::State;

/// Of each part of the state the coefficients of 1, then of x, y, z, then of their squares, cubes and fourth powers.
const COEFFICIENTS: [[f64; 13]; 5] = [
    [2.0, 0.0, 0.0, 4.0, 5.0, 3.0, 0.5, 0.02, 0.01, 0.03, 0.5, 0.4, 0.3],
    [1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.01, 0.03, 0.02, 0.4, 0.3, 0.5],
    [2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 3.0, 0.04, 0.03, 0.05, 0.3, 0.5, 0.4],
    [2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 3.0, 0.03, 0.05, 0.04, 0.2, 0.1, 0.3],
    [5.0, 4.0, 3.0, 2.0, 0.1, 0.4, 0.3, 0.05, 0.04, 0.03, 0.1, 0.3, 0.2],
];

/// The state at a point of the unit cube.
#[must_use]
pub fn exact(point: [f64; 3]) -> State {
    COEFFICIENTS.map(|c| {
        let along = |axis: usize| {
            let x = point[axis];
            x * (c[1 + axis] + x * (c[4 + axis] + x * (c[7 + axis] + x * c[10 + axis])))
        };
        c[0] + along(0) + along(1) + along(2)
    })
}

/// The state at first: what the faces of the cube have, blended.
#[must_use]
pub fn blended(point: [f64; 3]) -> State {
    let between = |axis: usize| {
        let face = |coordinate: f64| {
            let mut on_face = point;
            on_face[axis] = coordinate;
            exact(on_face)
        };
        let (from, to, x) = (face(0.0), face(1.0), point[axis]);
        std::array::from_fn::<f64, 5, _>(|part| (1.0 - x) * from[part] + x * to[part])
    };
    let (x, y, z) = (between(0), between(1), between(2));
    std::array::from_fn(|part| {
        let (x, y, z) = (x[part], y[part], z[part]);
        x + y + z - x * y - x * z - y * z + x * y * z
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corners_are_sums_of_coefficients() {
        assert_eq!(exact([0.0; 3]), [2.0, 1.0, 2.0, 2.0, 5.0]);
        let sums = COEFFICIENTS.map(|coefficients| coefficients.iter().sum::<f64>());
        assert!(exact([1.0; 3]).iter().zip(sums).all(|(value, sum)| (value - sum).abs() < 1e-12));
        // A fifth of everything.
        let expected = 2.0 + 0.2_f64.powi(2) * 5.0 + 0.2_f64.powi(3) * 0.02 + 0.2_f64.powi(4) * 0.5;
        assert!((exact([0.2, 0.0, 0.0])[0] - expected).abs() < 1e-12);
    }
}
