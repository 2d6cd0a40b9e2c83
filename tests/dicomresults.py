"""Reads DICOM results for tests, each way by the standard's own formulas or by another library than wrote them."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk

from medae.volume import NativeGrid

TOLERANCE = 0.01
LPS = np.array([-1.0, -1.0, 1.0])


def voxels_at(world: np.ndarray, native: NativeGrid) -> np.ndarray:
    """Whole voxels of a grid at RAS mm ``[n, 3]``; fails if a place lies more than 0.01 mm from one."""
    affine = native.matrix()
    found = np.rint((world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)
    apart = np.linalg.norm(found @ affine[:3, :3].T + affine[:3, 3] - world, axis=1)
    assert apart.size == 0 or apart.max() < TOLERANCE
    return found.astype(int)


def by_pydicom(path: Path, native: NativeGrid) -> np.ndarray:
    """Values on the grid of the scan: numbers of segments, or those of a map; 0 where no frame is."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    result = np.zeros(native.shape, dtype=np.float32 if "FloatPixelData" in data else np.uint16)
    for frame, group in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        rows, columns = np.nonzero(frame)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        lps = origin + np.outer(columns * between_columns, orientation[:3]) + np.outer(rows * between_rows, orientation[3:])
        number = 1
        if data.BitsAllocated == 1:
            holder = group if "SegmentIdentificationSequence" in group else shared
            number = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        result[tuple(voxels_at(lps * LPS, native).T)] = frame[rows, columns] * number
    return result


def by_highdicom(path: Path, native: NativeGrid) -> np.ndarray:
    """The same, by highdicom's own reader."""
    is_map = pydicom.dcmread(path, specific_tags=["Modality"]).Modality != "SEG"
    if is_map:
        volume = hd.pm.ParametricMap.from_file(path).get_volume()
    else:
        volume = hd.seg.segread(path).get_volume(combine_segments=True)
    places = np.argwhere(volume.array)
    world = (places @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * LPS
    result = np.zeros(native.shape, dtype=np.float32 if is_map else np.uint16)
    result[tuple(voxels_at(world, native).T)] = volume.array[tuple(places.T)]
    return result


def by_simpleitk(path: Path, native: NativeGrid) -> np.ndarray:
    """The mask of a segmentation with one segment, which is all that ITK reads of DICOM results."""
    image = sitk.ReadImage(str(path))
    places = np.argwhere(sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    step = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    result = np.zeros(native.shape, dtype=bool)
    result[tuple(voxels_at((places @ step.T + image.GetOrigin()) * LPS, native).T)] = True
    return result
