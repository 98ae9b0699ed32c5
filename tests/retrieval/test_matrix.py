import json
from dataclasses import replace

import numpy as np
import pytest

from sfsc.errors import SfscError
from sfsc.retrieval import (
    CompatibilityMatrix,
    compatibility_matrix,
    evaluate_ranking,
    raw_pixel_embeddings,
)
from sfsc.retrieval.matrix import METRICS
from tests.retrieval.retrieval_cases import random_case, unit


def example(values: list[list[float]]) -> CompatibilityMatrix:
    table = np.array(values)
    widths = tuple((place + 1) / len(table) for place in range(len(table)))
    return CompatibilityMatrix(widths, dict.fromkeys(METRICS, table), queries=5, skipped=1, gallery=9)


def test_cells_are_evaluations_of_query_width_against_gallery_width() -> None:
    case = random_case(1)
    rng = np.random.default_rng(5)

    def disturbed(embeddings: np.ndarray) -> np.ndarray:
        return unit(embeddings + 0.1 * rng.standard_normal(embeddings.shape))

    queries = {1.0: case.query_embeddings, 0.5: disturbed(case.query_embeddings)}
    gallery = {0.5: disturbed(case.gallery_embeddings), 1.0: case.gallery_embeddings}
    matrix = compatibility_matrix(queries, gallery, case.query, case.gallery)
    assert matrix.widths == (0.5, 1.0)
    assert matrix.gallery == len(case.gallery.identities)
    for row, q in enumerate(matrix.widths):
        for column, g in enumerate(matrix.widths):
            cell = evaluate_ranking(queries[q], gallery[g], case.query, case.gallery)
            assert (matrix.queries, matrix.skipped) == (cell.queries, cell.skipped)
            for name, value in cell.metrics.items():
                assert matrix.metrics[name][row, column] == value


def test_criterion_holds_cross_tests_against_the_smaller_self_test() -> None:
    matrix = example([[0.5, 0.5, 0.4], [0.6, 0.7, 0.7], [0.5, 0.69, 0.8]])
    assert matrix.criterion().tolist() == [
        [False, True, False],
        [True, False, True],
        [True, False, False],
    ]
    assert (matrix.cells_met(), matrix.cells) == (4, 6)
    assert matrix.self_tests() == pytest.approx(2 / 3)
    assert matrix.cross_tests("mINP") == pytest.approx((0.5 + 0.4 + 0.6 + 0.7 + 0.5 + 0.69) / 6)


def test_the_gallery_gain_holds_the_full_gallery_against_the_self_test() -> None:
    matrix = example([[0.5, 0.9, 0.625], [0.1, 0.75, 0.5], [0.2, 0.3, 0.8]])
    assert matrix.gallery_gain().tolist() == [0.125, -0.25]
    assert matrix.mean_gallery_gain("rank-1") == -0.0625
    paper = example([[0.550, 0.6, 0.662], [0.6, 0.650, 0.706], [0.6, 0.7, 0.750]])
    np.testing.assert_allclose(paper.gallery_gain(), [0.112, 0.056])


def test_a_single_width_has_no_cross_tests() -> None:
    matrix = example([[0.5]])
    assert (matrix.cells_met(), matrix.cells, matrix.self_tests()) == (0, 0, 0.5)
    assert np.isnan(matrix.cross_tests())
    assert matrix.gallery_gain().shape == (0,)
    assert np.isnan(matrix.mean_gallery_gain())


def test_json_and_back() -> None:
    matrix = example([[0.5, 1 / 3], [0.6, 0.7]])
    again = CompatibilityMatrix.from_json(json.loads(json.dumps(matrix.to_json())))
    assert again.to_json() == matrix.to_json()
    assert again.metrics["mAP"].dtype == np.float64


def test_exported_files_are_beside_the_family() -> None:
    own = example([[0.5, 0.4], [0.6, 0.7]])
    values = np.array([[0.5, 0.4, 0.9], [0.6, 0.7, 0.9], [0.9, 0.38, 0.9]])
    joined = replace(own, metrics=dict.fromkeys(METRICS, values), exported={"0.5 int8": own.widths[0]})
    assert (joined.cells, joined.cells_met()) == (own.cells, own.cells_met())
    assert (joined.self_tests(), joined.cross_tests()) == (own.self_tests(), own.cross_tests())
    assert joined.gallery_gain().tolist() == own.gallery_gain().tolist() == pytest.approx([-0.1])
    assert joined.family().to_json() == own.to_json()
    assert joined.costs() == {"0.5 int8": pytest.approx(0.02)}
    again = CompatibilityMatrix.from_json(json.loads(json.dumps(joined.to_json())))
    assert again.to_json() == joined.to_json()
    earlier = {key: value for key, value in own.to_json().items() if key != "exported"}
    assert CompatibilityMatrix.from_json(earlier).to_json() == own.to_json()


@pytest.mark.parametrize("damage", ["widths", "metrics", "gallery"])
def test_json_of_something_else_is_refused(damage: str) -> None:
    content = example([[0.5, 0.4], [0.6, 0.7]]).to_json()
    with pytest.raises(SfscError, match="not a compatibility matrix"):
        CompatibilityMatrix.from_json({key: value for key, value in content.items() if key != damage})
    content["widths"].pop()
    with pytest.raises(SfscError, match=r"mAP has shape \(2, 2\), expected \(1, 1\)"):
        CompatibilityMatrix.from_json(content)


def test_mistakes_are_named() -> None:
    case = random_case(0)
    queries, gallery = {0.5: case.query_embeddings}, {0.5: case.gallery_embeddings}
    with pytest.raises(SfscError, match="same widths"):
        compatibility_matrix(queries, {1.0: case.gallery_embeddings}, case.query, case.gallery)
    with pytest.raises(SfscError, match="same widths"):
        compatibility_matrix({}, {}, case.query, case.gallery)
    with pytest.raises(SfscError, match=r"gallery embeddings at width 0\.5 must have shape"):
        compatibility_matrix(queries, {0.5: gallery[0.5][:5]}, case.query, case.gallery)
    with pytest.raises(SfscError, match=r"query embeddings at width 0\.5 contain NaN"):
        compatibility_matrix({0.5: queries[0.5] * np.nan}, gallery, case.query, case.gallery)


def test_raw_pixels_find_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    pictures = np.kron(rng.integers(0, 256, (5, 8, 8, 3)), np.ones((1, 9, 7, 1))).astype(np.uint8)
    noisy = np.clip(pictures + rng.normal(0, 20, pictures.shape), 0, 255).astype(np.uint8)
    first, second = raw_pixel_embeddings(pictures), raw_pixel_embeddings(noisy)
    assert first.shape == (5, 768) and first.dtype == np.float32
    assert np.linalg.norm(first, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert np.argmax(first @ second.T, axis=1).tolist() == [0, 1, 2, 3, 4]
    assert raw_pixel_embeddings([]).shape == (0, 768)
