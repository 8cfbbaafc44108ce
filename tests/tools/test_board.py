"""tools/board.py: README's table is that of the leaderboard that was taken last."""

import csv
import io

import board
import pytest

HEADER = "data,task,model,settings,variant,role,figure,better,key,mean,std,seeds,status,best,beaten_by\n"
ROWS = HEADER + (
    "fashion_mnist,reconstruction,vae,vae,,model,MSE,lower,test/mse,0.0131616,0.0000912,3,,0,\n"
    "fashion_mnist,reconstruction,vlae,vlae,,model,MSE,lower,test/mse,0.0120512,,1,,1,\n"
    "fashion_mnist,likelihood,vae,vae,,model,log p(x),higher,test/log_likelihood,,,0,not run,0,\n"
    "fashion_mnist,generation,vae,vae,samples,model,Frechet distance,lower,generation/frechet/samples,115.6,5.3,3,,0,\n"
    "fashion_mnist,generation,vlae,vlae,samples,model,Frechet distance,lower,generation/frechet/samples,98.1,,1,,1,\n"
    "fashion_mnist,reconstruction,rae,rae,,model,MSE,lower,test/mse,0.011,,1,,0,\n"
    "digits,reconstruction,vae,vae,,model,MSE,lower,test/mse,0.5,,1,,1,\n")  # fmt: skip


def test_the_table_has_what_the_leaderboard_has():
    lines = board.table(board.read(board.kept(board.read(ROWS)))).splitlines()
    assert lines[2] == "| [vae](docs/models/vae.md) | 3 | 0.01316 ± 0.00009 |  |  | 115.6 ± 5.3 |"
    assert lines[3] == "| [vlae](docs/models/vlae.md) | 1 | **0.01205** |  |  | **98.1** |"
    assert len(lines) == 4


TABLES = HEADER + (
    'all data sets,ood,pae,pae,either,model,"other_classes: AUROC, mean",higher,k,0.90,0.01,3,,1,\n'
    'all data sets,ood,pae,pae,either,model,"other_classes: AUROC, place",lower,k,2.5,,0,,1,\n'
    'all data sets,ood,,all models,knn_pixels,baseline,"other_classes: AUROC, mean",higher,k,0.95,,3,,0,\n'
    'all data sets,ood,vae,vae,elbo,model,"other_classes: AUROC, mean",higher,k,,,0,3 of 4 sets,0,\n'
    "digits,ood,vae,vae,elbo,model,a,higher,k,0.3,,1,,0,\n")  # fmt: skip


def test_the_page_on_tables_has_what_all_data_sets_have():
    rows = list(csv.DictReader(io.StringIO(board.tables_kept(list(csv.DictReader(io.StringIO(TABLES)))))))
    assert {row["data"] for row in rows} == {"all data sets"}
    lines = board.tables_table(rows).splitlines()
    assert lines[2] == "| all models | `knn_pixels` (simple method) | 3 | 0.950 |  |  |"
    assert lines[3] == "| pae | `either` | 3 | **0.900 ± 0.010** | **2.5** |  |"
    assert len(lines) == 4


def test_the_pages_are_in_step():
    for path, text in board.pages().items():
        assert path.read_text(encoding="utf-8") == text, "tools/board.py --write"


def test_a_readme_without_a_place_is_told():
    with pytest.raises(ValueError, match="lacks"):
        board.page("# pae_zoo\n", "")


@pytest.mark.parametrize("argv, words", [([], "received nothing"), (["a", "b"], "received a b"),
                                         (["nowhere"], "leaderboard writes it")])  # fmt: skip
def test_bad_calls_are_told(argv, words, capsys):
    assert board.main(argv) == 2
    assert words in capsys.readouterr().err
