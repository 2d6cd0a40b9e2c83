"""Contrasts guessed from headers, with descriptions as scanners and hospitals write them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dicomfiles import ramp

from medae.data.contrast import contrast_of
from medae.formats.dicom.headers import Header, read_header


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> dict[str, Header]:
    from dicomfiles import Writer

    writer = Writer(tmp_path_factory.mktemp("contrast"))
    return {name: read_header(writer.series(ramp((4, 4, 1)), modality=name)[0]) for name in ("CT", "MR")}


DESCRIPTIONS = {
    "T1": [
        "t1_mprage_sag_p2_iso", "AX T1 PRE", "SAG T1", "T1 SE tra", "t1_tse_cor", "MPRAGE", "Ax T1 FLAIR", "T1W_3D_TFE",
        "3D SPGR", "Sag BRAVO", "AX T1 W/O", "T1 FSE Axial non contrast", "t1_vibe_tra nativ", "T1_FL2D_TRA",
    ],
    "T1ce": [
        "T1post", "AX T1 POST GD", "t1_mprage_tra_p2_iso +C", "T1 + C", "T1 GD", "T1C", "T1CE", "t1_tse_tra KM",
        "AX T1 SE C+", "SAG MPRAGE POST", "T1W 3D TFE with contrast", "T1-weighted Gad", "eT1W_SE_gado",
    ],
    "T2": [
        "t2_tse_tra", "AX T2 FSE", "T2W_TSE", "AX T2 PROPELLER", "T2 FRFSE", "Sag T2", "t2_space_sag_iso", "AXT2",
        "HASTE cor", "T2 fat sat",
    ],
    "FLAIR": [
        "FLAIRreg", "AX FLAIR", "t2_flair_tra", "T2_FLAIR_3D", "t2_tirm_tra_dark-fluid", "Ax T2 FLAIR",
        "3D_Brain_VIEW_FLAIR", "FLAIR_longTR", "t2_space_dark-fluid_sag", "AX FLAIR POST",
    ],
    "DWI": [
        "ep2d_diff_3scan_trace_p2", "AX DWI", "DWI b1000", "DTI 64 dir", "ep2d_diff_mddw_64_p2_TRACEW", "Diffusion",
        "b=1000",
    ],
    "ADC": ["ep2d_diff_3scan_trace_p2_ADC", "ADC map", "Apparent Diffusion Coefficient (mm2/s)", "dADC", "eADC"],
    "SWI": ["SWI_Images", "AX SWAN", "swi_tra_p2", "Mag_Images SWI"],
    "T2star": ["T2*", "t2_fl2d_tra_hemo", "AX GRE hemo", "T2 STAR", "T2star_map"],
    "PD": ["PD TSE fs sag", "AX PD", "Proton Density", "pd_tse_fs_cor", "PDW_SPAIR"],
    "STIR": ["STIR COR", "COR STIR"],
    "MRA": ["TOF_3D_multi-slab", "MRA COW", "ANGIO neck"],
    "perfusion": ["ep2d_perf_p2", "DSC PERFUSION", "3D ASL"],
    "CBV": ["relCBV", "rCBV map"],
    "FA": ["ep2d_diff_FA", "Fractional Aniso."],
    "BOLD": ["ep2d_bold_moco_p2", "fMRI task", "Resting state"],
    "MR": ["", "Series 4", "COR", "Brain", "Head Routine", "unnamed", "CERVICAL"],
}  # fmt: skip


@pytest.mark.parametrize(("expected", "text"), [(name, text) for name, texts in DESCRIPTIONS.items() for text in texts])
def test_descriptions(headers, expected, text):
    assert contrast_of(replace(headers["MR"], description=text)) == expected


@pytest.mark.parametrize(
    ("described", "protocol", "expected"),
    [("", "t2_tse_tra", "T2"), ("Series 3", "AX FLAIR", "FLAIR"), ("SAG T1", "t2_tse", "T1"), ("Ax", "Brain - RCBV", "CBV")],
)
def test_the_protocol_speaks_where_the_description_does_not(headers, described, protocol, expected):
    assert contrast_of(replace(headers["MR"], description=described, protocol=protocol)) == expected


@pytest.mark.parametrize(
    ("sequence", "echo", "repetition", "inversion", "expected"),
    [
        (("SE",), 12, 500, None, "T1"),
        (("SE",), 98, 4500, None, "T2"),
        (("SE",), 20, 2500, None, "PD"),
        (("SE", "IR"), 127.8, 9000, 2250, "FLAIR"),
        (("GR", "IR"), 2.9, 2300, 900, "T1"),
        (("GR",), 4.6, 25, None, "MR"),
        (("SE", "EP"), 90, 5000, None, "MR"),
        (("SE",), 50, 1500, None, "MR"),
        (("RM",), 10, 650, None, "T1"),
        (("SE", "IR"), 40, 4000, 160, "MR"),
    ],
)
def test_numbers_where_no_word_speaks(headers, sequence, echo, repetition, inversion, expected):
    times = {"EchoTime": echo, "RepetitionTime": repetition, "InversionTime": inversion}
    times = {name: float(value) for name, value in times.items() if value is not None}
    header = replace(headers["MR"], description="x", sequence=sequence, acquisition=times)
    assert contrast_of(header) == expected
    assert contrast_of(replace(header, description="AX T2 FSE")) == "T2", "words come first"


@pytest.mark.parametrize(
    ("modality", "text", "agent", "expected"),
    [
        ("CT", "Chest 1.0", False, "CT"),
        ("CT", "Abdomen portal venous", True, "CTce"),
        ("CT", "THORAX +C", False, "CTce"),
        ("CT", "native", True, "CT"),
        ("CT", "CHEST W/O", True, "CT"),
        ("CT", "t1 lesion", False, "CT"),
        ("MR", "AX T1", True, "T1ce"),
        ("MR", "AX T1 PRE", True, "T1"),
        ("MR", "AX FLAIR", True, "FLAIR"),
        ("MR", "AX T2", True, "T2"),
        ("MR", "POST OP T1", False, "T1"),
    ],
)
def test_contrast_agents(headers, modality, text, agent, expected):
    assert contrast_of(replace(headers[modality], description=text, has_contrast=agent)) == expected


@pytest.mark.data
def test_the_real_study(data_root):
    found = {
        folder.name: contrast_of(read_header(next(folder.iterdir())))
        for folder in (data_root / "dicom" / "Study1").iterdir()
    }
    assert found == {"12-T1post-05670": "T1ce", "36459-FLAIRreg-76244": "FLAIR"}
