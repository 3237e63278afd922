"""How the text of the allocator's settings is read."""

from __future__ import annotations

import sys

import pytest
from made_up_timelines import timeline_of

from fastfake.memory import AllocatorSettings, CachingAllocator, simulate

pytestmark = pytest.mark.usefixtures("no_allocator_settings")

MIB = 1 << 20


def test_settings_are_read_as_torch_reads_them() -> None:
    found = AllocatorSettings.parse(
        " max_split_size_mb : 64, expandable_segments:True,garbage_collection_threshold:0.75,"
        "roundup_power2_divisions:[2:4,8:2,>:8],per_process_memory_fraction:0.5,large_segment_size_mb:30,"
        "max_non_split_rounding_mb:40,throw_on_cudamalloc_oom:True,backend:native,pinned_num_register_threads:4,"
        "expandable_segments_reserve_by_class:[serving:0.25],"
    )
    assert found == AllocatorSettings(
        max_split_size=64 * MIB,
        max_non_split_rounding=40 * MIB,
        roundup_power2_divisions=(4, 4, 0, 2, *[8] * 12),
        garbage_collection_threshold=0.75,
        expandable_segments=True,
        large_segment_size=30 * MIB,
        per_process_memory_fraction=0.5,
        throw_on_cudamalloc_oom=True,
    )
    assert AllocatorSettings.parse("") == AllocatorSettings()
    assert AllocatorSettings().max_split_size == sys.maxsize


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size:64", "Unrecognized key 'max_split_size' in CUDA allocator config."),
        ("max_split_size_mb:64,,expandable_segments:True", "Unrecognized key ',' in CUDA allocator config."),
        ("max_split_size_mb:19", "CachingAllocator option max_split_size_mb too small, must be >= 20"),
        (
            "max_split_size_mb:30,large_segment_size_mb:40",
            "CachingAllocator option max_split_size_mb too small, must be >= 40",
        ),
        ("max_non_split_rounding_mb:1", "CachingAllocator option max_non_split_rounding_mb too small, must be >= 20"),
        ("large_segment_size_mb:10", "CachingAllocator option large_segment_size_mb must be > 10 MB"),
        ("garbage_collection_threshold:1", "garbage_collect_threshold is invalid, set it in (0.0, 1.0)"),
        ("per_process_memory_fraction:1.5", "per_process_memory_fraction is invalid, set it in [0.0, 1.0]"),
        ("roundup_power2_divisions:3", "For roundups, the divisions has to be power of 2"),
        (
            "roundup_power2_divisions:[4:3]",
            "For roundups, the divisions has to be power of 2 or 0 to disable roundup",
        ),
        ("roundup_power2_divisions:[3:4]", "For roundups, the intervals have to be power of 2"),
        (
            "roundup_power2_divisions:[4]",
            "roundup_power2_divisions has '4' where a size and its divisions are expected",
        ),
        ("roundup_power2_divisions:[4:2", "the allocator's settings 'roundup_power2_divisions:[4:2' end too early"),
        ("expandable_segments:true", "Expected 'True' or 'False' at index 2 in ConfigTokenizer but got 'true'"),
        (
            "max_split_size_mb:64,expandable_segments:1",
            "Expected 'True' or 'False' at index 6 in ConfigTokenizer but got '1'",
        ),
        ("backend:malloc", "Unknown allocator backend, options are native and cudaMallocAsync"),
        ("max_split_size_mb=64", "Unrecognized key 'max_split_size_mb=64' in CUDA allocator config."),
        ("max_split_size_mb", "the allocator's settings 'max_split_size_mb' end too early"),
        ("max_split_size_mb,64", "the allocator's settings have ',' where ':' is expected"),
        ("max_split_size_mb:64:32", "the allocator's settings have ':' where ',' is expected"),
        ("max_split_size_mb:many", "max_split_size_mb has to be a whole number, not 'many'"),
        ("max_split_size_mb:[64]", "max_split_size_mb has to be one value, not a list"),
        ("garbage_collection_threshold:half", "garbage_collection_threshold has to be a number, not 'half'"),
    ],
)
def test_settings_that_are_not_possible_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        AllocatorSettings.parse(text)
    assert str(caught.value) == message


def test_there_is_no_model_of_the_other_backend() -> None:
    with pytest.raises(NotImplementedError, match="no model of the cudaMallocAsync backend"):
        CachingAllocator("backend:cudaMallocAsync")


def test_the_older_variable_comes_first_as_in_torch() -> None:
    both = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    assert AllocatorSettings.from_environment(both) == AllocatorSettings(max_split_size=64 * MIB)
    del both["PYTORCH_CUDA_ALLOC_CONF"]
    assert AllocatorSettings.from_environment(both) == AllocatorSettings(expandable_segments=True)
    assert AllocatorSettings.from_environment({}) == AllocatorSettings()


def test_the_environment_says_how_the_allocator_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "large_segment_size_mb:30")
    assert simulate(timeline_of((5 * MIB, 0, None))).peak_reserved == 30 * MIB
    assert simulate(timeline_of((5 * MIB, 0, None)), settings="").peak_reserved == 20 * MIB
