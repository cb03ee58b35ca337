"""Results of suites and of finished runs, read and compared."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from monitoring import ConfigTracker, MetricsLogger, ResultsAggregator, ResultsParser

LOG = """\
╭──────────────────────────╮
│ 🔬 ABLATION SUITE        │
│                          │
│ Steps per experiment: 90 │
╰──────────────────────────╯
📊 Tokens: Train 4,500 | Val 500
============================================================
📊 Parameters: 1,000,000 (1.00M)
          Parameter Breakdown
┏━━━━━━━━━━━┳━━━━━━━━━━━━┓
┃ Component ┃ Parameters ┃
┡━━━━━━━━━━━╇━━━━━━━━━━━━┩
│ TOTAL     │  1,000,000 │
└───────────┴────────────┘
╭──────────────────────╮
│ Standard Transformer │
╰──────────────────────╯
📊 Parameters: 1,000,000 (1.00M)
🔄 Steps: 90
⚙️  Optimizer: AdamW
📉 Loss: Cross-Entropy
📈 LR: 6e-04
Step    30 | Train(CE): 7.0259 | Val: 7.0833 | AvgTrain: 8.3495 | R: 0.500
   New best: 7.0833 (Saved)0m   2% • Loss: 7.0259 0:01:03
Step    60 | Train(CE): 6.5191 | Val: 6.0000 | AvgTrain: 6.7990 | R: 0.500
   New best: 6.0000 (Saved)━━━━━━━   3% • Loss: 6.5191 0:02:07
Step    90 | Train(CE): nan | Val: 6.5897 | AvgTrain: 6.7990 | R: 0.500
   Patience: 1/8
♻️  Restoring best model (Val: 6.0000)
╭──── Standard Transformer Output ─────╮
│ The theory of quantum mechanics      │
│ suggests a large number.             │
╰──────────────────────────────────────╯
╭───────────────╮
│ Full (R + Q)  │
╰───────────────╯
📊 Parameters: 2,345,678 (2.35M)
🔄 Steps: 90
⚡ Optimizer: RGD (strength=0.3)
🌌 Loss: QFE (λ=0.1)
📈 LR: 1e-03
Step    30 | Train(CE): 6.8202 | Val: 5.5000 | AvgTrain: 7.9331 | R: 0.505
   New best: 5.5000 (Saved)
                  🔬 Ablation Study Results
┏━━━━━━━━━━━━━━┳━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┓
┃ Experiment   ┃ RGD ┃ Val Loss ┃ Perplexity ┃ Speed (tok/s) ┃
┡━━━━━━━━━━━━━━╇━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━━━━┩
│ Full (R + Q) │  ✓  │   5.6000 │     270.43 │         3,881 │
└──────────────┴─────┴──────────┴────────────┴───────────────┘
"""


@pytest.fixture
def parser(tmp_path: Path) -> ResultsParser:
    path = tmp_path / "results.txt"
    path.write_text(LOG, encoding="utf-8")
    return ResultsParser(path)


def test_every_experiment_is_read_whole(parser: ResultsParser) -> None:
    standard, full = parser.parse()
    assert standard["name"] == "Standard Transformer"
    assert standard["config"] == {
        "parameters": 1_000_000,
        "steps": 90,
        "optimizer": "AdamW",
        "loss": "Cross-Entropy",
        "learning_rate": 6e-4,
    }
    assert [row["step"] for row in standard["training_metrics"]] == [30, 60, 90]
    assert standard["training_metrics"][0] == {
        "step": 30, "train_loss": 7.0259, "val_loss": 7.0833, "avg_train_loss": 8.3495,
        "wave_ratio": 0.5,
    }  # fmt: skip
    assert standard["final_results"] == {"best_val_loss": 6.0}
    assert standard["generation_sample"] == (
        "The theory of quantum mechanics suggests a large number."
    )
    assert full["config"]["optimizer"] == "RGD (strength=0.3)"
    assert full["config"]["loss"] == "QFE (λ=0.1)"
    assert full["final_results"] == {
        "best_val_loss": 5.5, "val_loss": 5.6, "perplexity": 270.43, "tokens_per_second": 3881.0,
    }  # fmt: skip
    assert full["generation_sample"] is None


def test_experiments_are_found_by_name(parser: ResultsParser) -> None:
    found = parser.get_experiment_by_name("full (r + q)")
    assert found is not None
    assert found["config"]["parameters"] == 2_345_678
    assert parser.get_experiment_by_name("absent") is None
    assert len(parser.get_all_experiments()) == 2


def test_json_goes_there_and_back(parser: ResultsParser, tmp_path: Path) -> None:
    path = parser.save_to_json(tmp_path / "out" / "results.json")
    document = json.loads(path.read_text())
    assert set(document) == {"experiments", "parsed_at", "source_file"}
    aggregator = ResultsAggregator()
    aggregator.load_from_json(path)
    assert [experiment["name"] for experiment in aggregator.experiments] == [
        "Standard Transformer", "Full (R + Q)",
    ]  # fmt: skip


def test_experiments_are_compared(parser: ResultsParser, tmp_path: Path) -> None:
    aggregator = ResultsAggregator()
    aggregator.load_from_parser(parser)
    head, _, standard, full = aggregator.generate_comparison_table().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in (head, standard, full)
    ]
    assert cells == [
        ["Experiment", "Parameters", "Val Loss", "Perplexity", "Speed (tok/s)"],
        ["Standard Transformer", "1.00M", "6.0000", "N/A", "N/A"],
        ["Full (R + Q)", "2.35M", "5.5000", "270.43", "3,881"],
    ]
    summary = aggregator.generate_summary_statistics()
    assert summary["num_experiments"] == 2
    loss = summary["val_loss"]
    assert (loss["mean"], loss["median"], loss["min"], loss["max"]) == (5.75, 5.75, 5.5, 6.0)
    assert loss["stdev"] == pytest.approx(0.35355, abs=1e-5)
    assert summary["perplexity"]["stdev"] == 0.0
    comparison = aggregator.compare_experiments("Standard Transformer", "Full (R + Q)")
    assert comparison["metrics"]["val_loss"]["difference"] == -0.5
    with pytest.raises(KeyError, match="absent"):
        aggregator.compare_experiments("absent", "Full (R + Q)")
    ablation = aggregator.generate_ablation_analysis()
    assert ablation["baseline"] == {"name": "Standard Transformer", "val_loss": 6.0}
    assert ablation["best_component"] == "Full (R + Q)"
    assert ablation["best_improvement"] == 0.5
    path = aggregator.save_summary(tmp_path / "summary.json")
    assert json.loads(path.read_text())["ablation_analysis"] == ablation


def test_nothing_to_compare_is_no_error() -> None:
    aggregator = ResultsAggregator()
    assert aggregator.generate_summary_statistics() == {"num_experiments": 0}
    assert aggregator.generate_ablation_analysis()["best_component"] is None
    assert "Experiment" in aggregator.generate_comparison_table()


def test_finished_runs_are_collected_from_a_directory(tmp_path: Path) -> None:
    for name, loss in (("baseline", 5.0), ("wave", 4.0)):
        root = tmp_path / name
        tracker = ConfigTracker(root)
        tracker.save_config({"steps": 100, "optimizer": {"name": "rgd", "lr": 1e-3}})
        logger = MetricsLogger(root / "logs")
        logger.log_metrics(0, {"loss": 7.0})
        logger.log_metrics(50, {"loss": 6.0, "val_loss": loss})
        tracker.save_results({"best_val_loss": loss, "tokens_per_second": 10.0}, None, ["once"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{")
    aggregator = ResultsAggregator()
    aggregator.load_from_directory(tmp_path)
    first, second = aggregator.experiments
    assert (first["name"], second["name"]) == ("baseline", "wave")
    assert second["config"]["optimizer"] == "rgd"
    assert second["config"]["learning_rate"] == 1e-3
    assert [row["step"] for row in second["training_metrics"]] == [50]
    assert aggregator.generate_ablation_analysis()["best_improvement"] == 1.0


def test_a_run_that_diverged_is_listed_and_neither_counted_nor_the_best(tmp_path: Path) -> None:
    for name, loss in (("standard", math.nan), ("a", 5.0), ("b", 4.0), ("c", math.inf)):
        ConfigTracker(tmp_path / name).save_results({"val_loss": loss})
    aggregator = ResultsAggregator()
    aggregator.load_from_directory(tmp_path)
    summary = aggregator.generate_summary_statistics()
    assert summary["num_experiments"] == 4
    assert summary["val_loss"] == {
        "mean": 4.5, "median": 4.5, "min": 4.0, "max": 5.0, "stdev": pytest.approx(0.7071, 1e-3),
    }  # fmt: skip
    ablation = aggregator.generate_ablation_analysis()
    assert ablation["baseline"] == {"name": "a", "val_loss": 5.0}
    assert (ablation["best_component"], ablation["best_improvement"]) == ("b", 1.0)
    assert set(ablation["components"]) == {"standard", "b", "c"}
    assert ablation["components"]["c"]["improvement"] is None
    assert aggregator.generate_ablation_analysis("standard")["best_component"] is None
    table = aggregator.generate_comparison_table()
    assert "nan" in table
    aggregator.save_summary(tmp_path / "summary.json")


@pytest.mark.parametrize(
    ("results", "config", "kept"),
    [
        ([], {}, False),
        ("text", {}, False),
        ({"final_metrics": {"val_loss": 1.0}}, [], False),
        ({"final_metrics": None, "generation_samples": "once"}, {"config": "lr=1"}, True),
        ({"final_metrics": {"val_loss": "n/a"}}, {"config": {"training": 3}, "model": None}, True),
        ({}, {"config": None}, True),
    ],
)
def test_an_odd_run_keeps_no_other_from_being_compared(
    results: Any, config: Any, kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "results.json").write_text(json.dumps(results))
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config))
    ConfigTracker(tmp_path / "sound").save_results({"val_loss": 2.0})
    aggregator = ResultsAggregator()
    aggregator.load_from_directory(tmp_path)
    names = [experiment["name"] for experiment in aggregator.experiments]
    assert names == (["odd", "sound"] if kept else ["sound"])
    assert ("odd" in caplog.text) is not kept
    aggregator.save_summary(tmp_path / "summary.json")
