"""The changes that `mutants.py` makes in the WebUI's room."""

from __future__ import annotations

from mutant_list import Mutant, of

CODER = "tests/codec/test_coder.py"
HOSTS = "tests/webui/test_hosts.py"
JOBS = "tests/webui/test_kinds_of_fault.py"
PICTURES = "tests/webui/test_pictures.py"
SESSION = "tests/webui/test_session.py"

MUTANTS: tuple[Mutant, ...] = (
    *of(
        "codec/coder",
        CODER,
        comfort_of_nine_tenths=("COMFORT = 0.5", "COMFORT = 0.9"),
        autocast_left_on=("torch.autocast(device.type, enabled=False)", "torch.autocast(device.type, enabled=True)"),
        overflow_of_all_vaes=("torch.float32 if vae in watch.wide else None", "torch.float32 if watch.wide else None"),
        overflow_forgotten=(
            "        if result is not None:\n            watch.wide.add(vae)",
            "        if result is not None:\n            pass",
        ),
        broken_latents_blame_the_vae=("if not _finite(x):", "if False:"),
        limit_of_the_user_ignored=("min(free, watch.memory_limit) if watch.memory_limit else free", "free"),
        another_tiler_is_passed_over=('(mode == "auto" and watch.tiler)', '(mode == "auto" and False)'),
        stopped_jobs_get_no_picture=(
            "should_stop=None if before else watch.interrupted",
            "should_stop=watch.interrupted",
        ),
    ),
    *of(
        "webui/first_stage",
        f"{SESSION}::test_a_vae_that_was_read_for_a_model_in_half_precision_is_read_again_for_one_in_full",
        f"{SESSION}::test_a_cached_vae_that_somebody_wrote_into_is_read_anew",
        f"{JOBS}::test_a_move_that_fails_is_tried_again_and_nothing_is_forgotten",
        f"{JOBS}::test_what_is_in_the_cache_is_held_against_each_model",
        cache_key_without_dtype=(
            "cache.get((file.version, dtype), load)",
            "cache.get((file.version,), load)",
        ),
        written_states_are_kept=("if was_written(installed):", "if False:"),
        forgotten_before_it_is_put_back=(
            "            remove(installed)\n",
            "            self._installed = None\n            remove(installed)\n",
        ),
    ),
    *of(
        "webui/session",
        PICTURES,
        HOSTS,
        no_lock=("self._lock = threading.RLock()", "self._lock = __import__('contextlib').nullcontext()"),
    ),
    *of(
        "webui/session",
        HOSTS,
        finish_without_undo=("job.own_ends.clear()\n            self._leave()", "job.own_ends.clear()"),
        a_failed_job_is_left_in_place=(
            "            self._leave()\n            view = PictureJob.of(p)\n            view.forget()",
            "            view = PictureJob.of(p)\n            view.forget()",
        ),
        no_ensure_before_a_batch=(
            "self.ensure()\n            if self._tenure is not None:\n                self._tenure.begin_batch()",
            "if self._tenure is not None:\n                self._tenure.begin_batch()",
        ),
    ),
    *of(
        "webui/tenure",
        PICTURES,
        SESSION,
        scale_fixed_the_wrong_way=("return z * factor", "return z / factor"),
        previews_count_as_pictures=("if self._batch is None or not self._in_batch():", "if self._batch is None:"),
    ),
    *of(
        "webui/baked",
        SESSION,
        baked_is_taken_at_the_hosts_word=(
            "job.own is None and automatic and checkpoint",
            "job.own is None and checkpoint",
        ),
    ),
    *of(
        "webui/tenure",
        HOSTS,
        tiler_not_suspended=("self._stack.callback(self._host.suspend_tiler())", "pass"),
    ),
    *of(
        "webui/shelf",
        PICTURES,
        remembered_unasked=("if self.options.remember:", "if True:"),
    ),
    *of(
        "webui/job",
        PICTURES,
        JOBS,
        adetailers_parts_are_coloured=('self.color.mode != "off" and not view.is_detail', 'self.color.mode != "off"'),
        encoded_as_it_is_decoded=('if part == "encode" and decision.encode is not None:', "if False:"),
        grids_labels_are_believed=("if not {override, path_of(override)} & meant:", "if False:"),
    ),
    *of(
        "webui/hosts/picture_job",
        PICTURES,
        JOBS,
        every_batch_is_the_first=('int(getattr(self._p, "iteration", 0) or 0) * self.batch_size', "0"),
        parameters_are_shared_by_copies=(
            "self._p.extra_generation_params = {**self._p.extra_generation_params, **values}",
            "self._p.extra_generation_params.update(values)",
        ),
        a_copy_keeps_the_originals_functions=("                around.remove(self._p)", "                pass"),
    ),
    *of(
        "webui/hosts/picture_job",
        "tests/webui/test_xyz.py",
        cells_share_one_dict=(
            "setattr(self._p, CELL, {**self.cell, name: value})",
            "vars(self._p).setdefault(CELL, {})[name] = value",
        ),
    ),
    *of(
        "webui/api",
        "tests/webui/test_api.py",
        no_login=("dependencies=_guard(app, door.logins))", "dependencies=[])"),
        any_password=(
            "_same(given.username, user) and _same(given.password, password)",
            "_same(given.username, user)",
        ),
        closed_door_open=("if not door.open:", "if False:"),
    ),
    *of(
        "webui/xyz",
        "tests/webui/test_xyz.py",
        axes_added_twice=('if any(axis.label.startswith(f"[{KEY}]") for axis in axes):', "if False:"),
    ),
    *of(
        "webui/paste",
        "tests/webui/test_paste.py",
        pasted_enabled_always=("return bool(params.get(KEY))", "return True"),
        the_hosts_vae_is_set_too=("    shelf.host.clean_pasted(params)", "    pass"),
    ),
    *of(
        "webui/hosts/base",
        "tests/webui/test_api.py",
        f"{SESSION}::test_a_guard_of_ours_that_fails_leaves_the_hosts_function_its_result",
        a_login_without_a_password=(
            "for user, _, password in pairs if user and password)",
            "for user, _, password in pairs)",
        ),
        guards_that_fail_take_the_host_with_them=("        quietly(first)\n", "        first and first()\n"),
    ),
    *of(
        "webui/hosts/promise",
        "tests/webui/test_hosts.py",
        "-k",
        "memory_manager or estimate",
        a_clone_keeps_our_estimate=("        self._foreseen = None\n", ""),
        what_others_put_over_ours_is_taken_out=("if getattr(self._vae, self._name) is self:", "if True:"),
        an_estimate_that_fails_stops_the_host=("        except Exception:\n", "        except MemoryError:\n"),
    ),
    *of(
        "webui/hosts/forge",
        HOSTS,
        forge_text_encoders_are_vaes=('.lower() == "text_encoder":', '.lower() == "nothing":'),
        forge_pastes_its_modules=('params.pop("VAE/TE", None)', "pass"),
        forge_tiles_on=('return switched_off(memory_management, "VAE_ALWAYS_TILED")', "return lambda: None"),
    ),
    *of(
        "webui/hosts/reforge",
        HOSTS,
        reforge_release_and_ensure_exchanged=(
            "before=guards.release, after=guards.ensure)",
            "before=guards.ensure, after=guards.release)",
        ),
        reforge_does_not_tell_its_scale=(
            'found = getattr(self._format(model), "scale_factor", None)',
            "found = None",
        ),
    ),
    *of(
        "webui/infotext",
        "tests/webui/test_infotext.py",
        names_not_encoded=('return re.sub(r"[%;\\x00-\\x1f]"', 'return re.sub(r"[;\\x00-\\x1f]"'),
        any_hash_will_do=("if sha256 and sha256.startswith(recorded.hash):", "if sha256:"),
    ),
    *of(
        "webui/coloring",
        PICTURES,
        the_scale_upside_down=("return (used / space.scale, fault)", "return (space.scale / used, fault)"),
        a_vivid_hires_vae_is_undone=("return diagnose(known) if chosen else found", "return found"),
        faulty_first_passes_are_trusted=("or first.made.fault or", "or"),
    ),
)
