"""What launchers print at their end."""

from pae_zoo.experiment import console


def test_scores_become_a_table_and_the_rest_lines():
    metrics = {"test/mse": 0.0123456, "ood/mnist/elbo/auroc": 0.5, "ood/mnist/elbo/fpr95": 1.0,
               "ood/mnist/elbo/auroc_stderr": 0.01, "test/elbo": "unsupported",
               "ood/mnist/code_shift": 0.2}  # fmt: skip
    text = console.lines(metrics)
    assert text[0].split() == ["test/mse", "0.012346"]
    assert text[1].split() == ["test/elbo", "unsupported"]
    assert text[2].split() == ["ood/mnist/code_shift", "0.2"]
    assert text[3].split()[-4:] == ["+-", "auprc", "fpr95", "fpr80"]
    assert text[4].split() == ["mnist", "elbo", "0.5000", "0.0100", "-", "1.0000", "-"]
    assert len(text) == 5


def test_nothing_is_said_to_be_missing():
    assert console.number(None) == "-" and console.lines({}) == [] and console.pictures([]) == []


def test_over_runs_gives_mean_and_deviation_of_shared_numbers():
    found = console.over_runs([{"a": 1.0, "b": 2.0, "c": "words"}, {"a": 3.0, "c": "words"}])
    assert found == {"a": "2 +- 1.4"}


def test_scores_of_refined_codes_have_rows_of_their_own():
    found = console.lines({"ood/mnist/elbo/auroc": 0.9, "ood/mnist/elbo/auroc@newton3": 0.8,
                           "ood/mnist/elbo/auprc_in@newton3": 0.1, "test/elbo@newton3": 5.0})
    assert found[0].split() == ["test/elbo@newton3", "5"]
    assert [row.split() for row in found[2:]] == [
        ["mnist", "elbo", "0.9000", "-", "-", "-", "-"], ["mnist", "elbo@newton3", "0.8000", "-", "-", "-", "-"]]
