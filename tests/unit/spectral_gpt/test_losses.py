import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spectral_gpt.config import LossConfig
from spectral_gpt.losses import QFE, CrossEntropy, build_loss


def literal_qfe(logits: Tensor, targets: Tensor, projection: Tensor | None) -> Tensor:
    """The specification's formula, with angles."""
    vocab_size = logits.shape[-1]
    p, y = logits.softmax(-1), F.one_hot(targets, vocab_size).to(logits.dtype)
    if projection is not None:
        p, y = p @ projection, y @ projection
    f_p, f_y = torch.fft.rfft(p, dim=1), torch.fft.rfft(y, dim=1)
    audible = (f_p.abs() > 0.01) & (f_y.abs() > 0.01)
    beat = f_p.abs() * f_y.abs() * (1 - torch.cos(f_p.angle() - f_y.angle()))
    ce = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return ce + 0.05 * beat[audible].mean()


@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("vocab_size", [5, 300])
def test_qfe_and_its_gradient_equal_the_literal_formula(vocab_size: int, length: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, length, vocab_size, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(vocab_size, (3, length))
    qfe = QFE(vocab_size, coherence_weight=0.05, seed=3).double()
    # In float64 throughout, so that the tolerance can be tight.
    log_p = logits.log_softmax(-1)
    ours = F.nll_loss(log_p.flatten(0, 1), targets.flatten())
    ours = ours + 0.05 * qfe.coherence(log_p.exp(), targets)
    literal = literal_qfe(logits, targets, qfe.projection)
    torch.testing.assert_close(ours, literal, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (ours, literal)), rtol=1e-8, atol=1e-12
    )
    total = qfe.float()(logits.detach(), targets).total
    torch.testing.assert_close(total, literal.float(), rtol=1e-5, atol=0)


def test_a_perfect_prediction_has_no_coherence_loss() -> None:
    targets = torch.randint(9, (2, 16))
    loss = QFE(9)(100.0 * F.one_hot(targets, 9), targets)
    assert loss.coherence.item() == pytest.approx(0, abs=1e-6)
    assert loss.total.item() == pytest.approx(0, abs=1e-6)


def test_silence_costs_nothing() -> None:
    # Nobody predicts token 1, the only target: no frequency has both magnitudes above 0.01.
    logits = torch.tensor([100.0, -100.0]).expand(1, 4, 2)
    assert QFE(2).coherence(logits.softmax(-1), torch.ones(1, 4, dtype=torch.long)).item() == 0


def test_the_random_matrix_comes_from_the_seed_and_not_from_the_state() -> None:
    torch.manual_seed(1)
    first = QFE(300, seed=7)
    torch.manual_seed(2)
    again, other = QFE(300, seed=7), QFE(300, seed=8)
    assert first.projection is not None
    assert torch.equal(first.projection, again.projection)  # type: ignore[arg-type]
    assert not torch.equal(first.projection, other.projection)  # type: ignore[arg-type]
    assert first.projection.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert not first.state_dict()
    assert QFE(256).projection is None


def test_cross_entropy_is_the_mean_over_all_tokens() -> None:
    loss = build_loss(LossConfig(name="ce"), 4, seed=0)
    assert isinstance(loss, CrossEntropy)
    total = loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)).total
    assert total.item() == pytest.approx(1.3862943611)
