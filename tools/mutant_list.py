"""The changes that `mutants.py` makes, each wrong and in one place, with the tests that should notice it."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One wrong line."""

    title: str
    file: str
    old: str
    """Text that the file has exactly once."""
    new: str
    tests: tuple[str, ...]


def of(file: str, *tests: str, **changes: tuple[str, str]) -> list[Mutant]:
    """Mutants of one file that the same tests should catch: title_with_underscores=(old, new)."""
    return [
        Mutant(title.replace("_", " "), f"vae_manager/{file}.py", *change, tests) for title, change in changes.items()
    ]


STREAM = "tests/codec/test_streaming.py"
LIMITS = "tests/codec/test_streaming_limits.py"
HEADERS = (
    "tests/library/test_opening.py::test_offsets_shapes_and_names_are_checked",
    "tests/library/test_bad_files.py::test_headers_that_lie",
    "tests/library/test_bad_files.py::test_truncated_download",
)
HEALTH = "tests/library/test_health.py"

LIBRARY = [
    *of(
        "library/numbers",
        "tests/library/test_health.py",
        empty_layers_are_healthy=("if least == most == 0:", "if least == most == 1:"),
    ),
    *of(
        "store",
        "tests/test_store.py",
        rows_of_another_stamp=(
            "return _parsed(found[1]) if found and found[0] == stamp else None",
            "return _parsed(found[1]) if found else None",
        ),
        trouble_stops_the_work=(
            "        except (sqlite3.Error, OSError) as error:\n            self._rests",
            "        except ZeroDivisionError as error:\n            self._rests",
        ),
        told_again_and_again=(
            '                self._told = True\n                log.warning("%s cannot',
            '                log.warning("%s cannot',
        ),
    ),
    *of(
        "library/headers",
        *HEADERS,
        offsets_unchecked=(" or offsets[0] > offsets[1]:", ":"),
        sizes_unchecked=("if bits is not None and 8 *", "if bits is None and 8 *"),
        overlaps_let_in=("if start < last and start < end:", "if start < last and start > end:"),
        truncation_unnoticed=(
            "if (end := 8 + length + data_bytes) > source.size:",
            "if (end := 8 + length + data_bytes) < 0:",
        ),
    ),
    *of(
        "library/reading",
        "tests/library/test_opening.py",
        "-k",
        "cut_short or written_over",
        a_changed_file_is_read_on=("if stamp_of(file) != self.stamp:", "if False:"),
        a_short_read_is_zeros=(
            "        if not count:\n            raise VaeFileError(CHANGED)",
            "        if not count:\n            return",
        ),
    ),
    *of(
        "codec/kinds/kl/names",
        "tests/library/test_layouts.py",
        decoder_levels_not_turned=(
            'return _UP.sub(lambda m: f"decoder.up.{levels - 1 - int(m.group(1))}", _attention_to_ldm(name))',
            'return _UP.sub(lambda m: f"decoder.up.{int(m.group(1))}", _attention_to_ldm(name))',
        ),
        queries_and_keys_exchanged=('(r"\\.(?:to_q|query)\\.", "q")', '(r"\\.(?:to_q|query)\\.", "k")'),
        matrices_stay_matrices=("if _is_attention_weight(name) and tensor.ndim == 2 else", "if False else"),
    ),
    *of(
        "latents/architectures",
        "tests/latents",
        sdxl_is_not_told=('Mark("conditioner.embedders.")', 'Mark("conditioner.nothing.")'),
        unets_of_any_width=('Mark("label_emb.0.0.weight", (None, 2816))', 'Mark("label_emb.0.0.weight", (None, 2560))'),
    ),
    *of(
        "library/hashing",
        "tests/library/test_files.py",
        hash_of_a_rewritten_file=('return f"{file.size} {file.mtime_ns}"', 'return f"{file.size}"'),
        hash_of_a_growing_file=("if changed:", "if False:"),
    ),
    *of(
        "library/merge",
        "tests/library/test_merge.py",
        merge_the_other_way=("b.to(exact), alpha)", "b.to(exact), 1 - alpha)"),
    ),
    *of(
        "library/probe",
        "tests/library/test_probe.py",
        sd1_range_reaches_sdxl=('"sd1": (4.3, 6.25)', '"sd1": (4.3, 7.5)'),
        sdxl_range_too_narrow=('"sdxl": (6.75, 9.2)', '"sdxl": (7.9, 9.2)'),
    ),
    *of(
        "library/health",
        HEALTH,
        pale_is_healthy=("PALEST = 0.85", "PALEST = 0.45"),
        only_black_and_white_are_pale=("PALEST = 0.85", "PALEST = 0.97"),
        any_picture_is_faithful=("if trip.psnr < least:", "if trip.psnr < 0:"),
    ),
    *of(
        "library/exchanged",
        HEALTH,
        noise_must_be_whiter=("WHITE = 2.5", "WHITE = 0.2"),
        nothing_changed_places=("BETTER_SHARE = 0.5", "BETTER_SHARE = 5.0"),
    ),
    *of(
        "library/known",
        "tests/library/test_known.py",
        hashes_in_one_case=("_hash_index().get(sha256.lower())", "_hash_index().get(sha256)"),
    ),
]

SELECTION = [
    *of(
        "selection/names",
        "tests/selection/test_names.py",
        known_name_before_path=(
            "return self._by_path(wanted) or self._by_known_name(wanted)",
            "return self._by_known_name(wanted) or self._by_path(wanted)",
        ),
        short_hashes_are_enough=('"[0-9a-f]{10,64}"', '"[0-9a-f]{4,64}"'),
        the_first_of_several=("if len(matches) == 1:", "if matches:"),
    ),
    *of(
        "selection/choose",
        "tests/selection/test_choose.py",
        another_family_is_used=(
            "job.checkpoint.misfit(file, job.wishes.allow_other_family)",
            "job.checkpoint.misfit(file, True)",
        ),
        preset_parts_whoever_decided=(
            'above_preset = decision.source in ("prompt", "panel", "job")',
            "above_preset = False",
        ),
        damaged_baked_is_used=(
            "if facts.has_vae and (problem := next(",
            "if facts.has_vae is None and (problem := next(",
        ),
        unusable_files_again=("if str(listed.path) in job.wishes.unusable:", "if False:"),
    ),
    *of(
        "selection/presets",
        "tests/selection/test_presets.py",
        the_users_preset_is_replaced=(
            "not found.preset.remembered or found.preset == preset",
            "found.preset == preset",
        ),
        other_hash_same_print=(
            "if _same_print(owner, checkpoint) and not _other(owner, sha256)]",
            "if _same_print(owner, checkpoint)]",
        ),
    ),
    *of(
        "selection/checkpoint",
        "tests/test_models.py",
        channels_do_not_matter=(
            "mine and facts.channels is not None and facts.channels not in",
            "False and facts.channels not in",
        ),
    ),
]

CODEC = [
    *of(
        "codec/swap",
        "tests/codec/test_swap.py",
        moved_to_meta=(' and there.device.type != "meta" else own', " else own"),
        never_written=(
            "return any(parameter._version != installed.versions[name]",
            "return any(parameter._version == -1",
        ),
        ends_not_compared=(
            "return own.shape == theirs.shape and torch.equal",
            "return own.shape == theirs.shape or torch.equal",
        ),
        cannot_tell_what_the_host_put_there=(
            "if there is not installed.foreign[name] and there is not own:",
            "if False:",
        ),
    ),
    *of(
        "codec/cache",
        "tests/codec/test_swap.py",
        newest_dropped_first=("self._entries.move_to_end(key)", "self._entries.move_to_end(key, last=False)"),
    ),
    *of(
        "codec/whole",
        "tests/codec/test_autoencoder.py",
        variance_for_deviation=("torch.exp(0.5 * logvar", "torch.exp(logvar"),
    ),
    *of(
        "codec/streaming/moments",
        STREAM + "::test_norm_affine_is_group_norm",
        STREAM + "::test_moments_at_a_mean_of_a_thousand_deviations",
        eps_of_the_undivided_map=("norm.eps * 4.0**-exponent", "norm.eps"),
        means_do_not_vary=(" + (means - mean).square().mean(1, keepdim=True)", ""),
        strips_do_not_vary=(" + (counts * (means - mean).square()).sum(0)", ""),
    ),
    *of(
        "codec/streaming/fused_kernels",
        "tests/codec/test_fused.py",
        a_row_begins_too_early=("return row * out_row +", "return row * width +"),
        strips_of_one_tile_alone=("delta * delta * count * share", "0.0"),
        a_short_last_piece_counts_whole=(
            "tl.minimum(tl.maximum(pixels - piece * piece_pixels, 0), piece_pixels)",
            "tl.minimum(pixels, piece_pixels) + 0 * piece",
        ),
    ),
    *of(
        "codec/streaming/kernels",
        "tests/codec/test_fused.py::test_a_folded_doubling",
        taps_that_meet_are_not_added=("[0, 1, 1], [1, 1, 0]", "[0, 1, 0], [0, 1, 0]"),
        the_border_makes_outputs=("stride=2, padding=3)", "stride=2, padding=1)"),
    ),
    *of(
        "codec/streaming/attention",
        f"{STREAM}::test_equals_the_whole_in_float64",
        bias_of_v_is_lost=("None if v_bias is None else out_weight @ v_bias, out_bias", "None, out_bias"),
    ),
    *of(
        "codec/streaming/run",
        "tests/codec/test_fused.py::test_nobody_waits_for_moments_that_stay_on_the_device",
        moments_go_home_to_the_cpu=("moments = merge(parts, where)", "moments = merge(parts)"),
    ),
    *of(
        "codec/streaming/precision",
        f"{STREAM}::test_float16_does_not_overflow_where_the_whole_does",
        float16_overflows=(
            "dtype != torch.float16 or not math.isfinite(largest)",
            "dtype == torch.float16 or not math.isfinite(largest)",
        ),
    ),
    *of(
        "codec/streaming/plan",
        LIMITS,
        result_left_out_of_the_promise=(
            "return OVERHEAD_BYTES + request.item * (result + copies",
            "return OVERHEAD_BYTES + request.item * (copies",
        ),
        result_of_one_picture_only=("else n * prod(chain.result_shape", "else prod(chain.result_shape"),
        over_the_limit=("if plan.peak_bytes <= plan.limit_bytes]", "if plan.peak_bytes <= 2 * plan.limit_bytes]"),
        most_work_first=(
            "return min(fitting, key=lambda option: option.work)",
            "return max(fitting, key=lambda option: option.work)",
        ),
    ),
    *of(
        "codec/streaming/api",
        LIMITS,
        the_same_limit_after_out_of_memory=("limit_bytes=plan.peak_bytes - 1)", "limit_bytes=plan.limit_bytes)"),
        no_wider_dtype=("dtype=torch.float32, mode=None)", "dtype=torch.bfloat16, mode=None)"),
        result_stays_half=("torch.promote_types(self.dtype, dtype)", "dtype if self.tensor is None else self.dtype"),
        rows_do_not_begin_again=("self.index, self._y = index, 0", "self.index = index"),
        the_whole_memory_is_free=(
            "limit_bytes=free_bytes(device) if limit is None else limit",
            "limit_bytes=1 << 50 if limit is None else limit",
        ),
        no_one_may_stop=("if self._should_stop is not None and self._should_stop():", "if False:"),
    ),
    *of(
        "codec/memory",
        "tests/codec/test_memory.py",
        cached_files_are_taken=(" + int(stat.get(dropped_name, 0))", ""),
        main_memory_for_every_device=(
            'if device.type == "cpu":\n        return _main_memory()',
            "if True:\n        return _main_memory()",
        ),
    ),
]

COLOR = [
    *of(
        "color/drift",
        "tests/color/test_thresholds.py",
        drift_goes_far=("SHIFT = 0.12", "SHIFT = 0.5"),
        drift_goes_nowhere=("SHIFT = 0.12", "SHIFT = 0.01"),
        anything_is_the_same=("SAME = 0.85", "SAME = 0.2"),
    ),
    *of(
        "color/blind",
        "tests/color/test_thresholds.py",
        too_much_care=("CARE = 0.95", "CARE = 0.6"),
        no_care=("CARE = 0.95", "CARE = 1.3"),
        grey_pictures_are_judged=("if s.chromas[2] < MIN_CHROMA:", "if False:"),
    ),
    *of(
        "color/pool",
        "tests/color/test_thresholds.py",
        "tests/color/test_diagnose.py",
        three_pictures_make_a_pool=("MIN_PICTURES = 8", "MIN_PICTURES = 3"),
        one_picture_again_and_again=("_distance(new, old) > SAME", "_distance(new, old) > -1"),
        the_brightest_black=(
            "dtype=torch.float64).amin(0).clamp(max=MAX_SHIFT)",
            "dtype=torch.float64).amax(0).clamp(max=MAX_SHIFT)",
        ),
    ),
    *of(
        "color/reference",
        "tests/color/test_thresholds.py",
        "tests/color/test_diagnose.py",
        another_picture_is_matched=("MAX_RESIDUAL or alike < MIN_AGREEMENT or", "MAX_RESIDUAL or alike < -2 or"),
        what_was_painted_has_a_say=("source, target = source[kept], target[kept]", "pass"),
        what_was_painted_tells_whether_it_is_the_same=(
            "agreement(source, target, grid, kept)",
            "agreement(source, target, grid)",
        ),
    ),
    *of(
        "color/matrix",
        "tests/color/test_matrix.py",
        offset_of_the_inverse=(
            "return torch.cat([inverse, -inverse @ o], dim=1)",
            "return torch.cat([inverse, inverse @ o], dim=1)",
        ),
        composed_the_other_way=("a @ inner[:, 3:] + o]", "a @ inner[:, 3:] - o]"),
    ),
    *of(
        "color/faults",
        "tests/color/test_diagnose.py",
        pale_and_strong_exchanged=(
            "WASHED_OUT if used > right else TOO_STRONG",
            "WASHED_OUT if used < right else TOO_STRONG",
        ),
    ),
    *of(
        "color/session",
        "tests/color/test_diagnose.py",
        "-k",
        "session_is_kept or replaced",
        pictures_of_a_changed_file=("for part in (*checkpoint[1:], *vae[1:]))", "for part in vae[1:])"),
        no_end_of_pictures=("kept = (*before, seen)[-KEPT:] if", "kept = (*before, seen) if"),
    ),
    *of(
        "color/bake",
        "tests/color/test_bake.py",
        signed_offset=("2 * o + a.sum(1, keepdim=True) - 1]", "2 * o + a.sum(1, keepdim=True)]"),
    ),
    *of(
        "color/correct",
        "tests/color/test_correct.py",
        truncates=("* 255).round().to(torch.uint8)", "* 255).to(torch.uint8)"),
    ),
]

MANY = "tests/test_many.py"

COMMANDS = [
    *of(
        "commands/many",
        MANY,
        "-k",
        "not cluster",
        what_another_job_made_is_done=(
            '(line.get("job"), line.get("stamp")) != (key,',
            '(key, line.get("stamp")) != (key,',
        ),
        an_output_that_was_changed_is_done=("!= (key, _stamp(item.target)):", '!= (key, line.get("stamp")):'),
        the_outputs_folder_is_searched=("out = out if _is_below(out, at) and out != at else None", "out = None"),
        outputs_beside_inputs_of_their_kind=("if _is_below(at, out) and (", "if False and ("),
        a_file_by_another_name_is_written_over=("if _identity(item.target) in given:", "if False:"),
        a_line_that_was_cut_takes_the_next_with_it=('if file.read(1) != b"\\n":', 'if file.read(1) == b"":'),
        a_fault_stops_them_all=(
            "    except Exception as error:\n        return",
            "    except MemoryError as error:\n        return",
        ),
    ),
    *of(
        "commands/codec",
        MANY,
        "-k",
        "sample",
        one_noise_for_all=('text = f"{seed}:{name}"', 'text = f"{seed}"'),
    ),
    *of("commands/workers", MANY, "-k", "share", each_takes_all_memory=("// _beside", "// 1")),
]

MUTANTS: tuple[Mutant, ...] = (*LIBRARY, *SELECTION, *CODEC, *COLOR, *COMMANDS)
