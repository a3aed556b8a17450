# mailchimp_sync: PGXS build and the commands of a developer.
#
#   make, make install, make uninstall, make installcheck (against a running server), make clean
#   make test [SUITE=name [FILE="..."]]     everything, on clusters of its own; see test/run
#   make demo [KEEP=1]                      the main job from end to end, explained; see test/demo/run
#   make format, make format-check
#
# PG_CONFIG=path selects the server, BUILD=dir where everything that is built goes: several people can build and
# test in one checkout. A new C file, SQL file or test is added to the lists below; make lists checks them.

C_FILES = mailchimp_sync.c settings.c clock.c boundary.c sql.c name.c identity.c level.c gate.c gate_trigger.c \
	advisory.c slot.c transfer.c http.c reply.c ask.c account.c connection.c connect.c event.c trigger.c source.c attempt.c evaluate.c inbound.c \
	contact.c unit.c plan.c engine.c field.c refresh.c batch.c leave.c rename.c push.c tag.c opt_out.c erase.c campaign.c campaign_check.c test_mail.c poll.c import.c read.c look.c html.c api.c webhook.c webhook_register.c run.c worker.c launcher.c

# Joined in this order: what a file uses is made before it.
SQL_FILES = schema.sql clock.sql connection.sql connection_alter.sql name.sql gate.sql trigger.sql source.sql guard.sql webhook.sql audience.sql account.sql evaluate.sql \
	contact.sql inbound.sql event.sql hand.sql opt_out.sql engine.sql slot.sql conflict.sql desired.sql template.sql campaign.sql campaign_state.sql recipient.sql target.sql merge_tag.sql campaign_check.sql activity.sql report.sql machine.sql signal.sql \
	erase.sql export.sql settle.sql fold.sql inbound_find.sql inbound_write.sql crm_time.sql compare.sql field.sql refresh.sql leave.sql rename.sql push.sql push_answer.sql tag.sql batch.sql carry.sql \
	send.sql send_step.sql adopt.sql send_ask.sql send_ready.sql send_answer.sql resolve.sql send_restore.sql send_tidy.sql schedule.sql test_mail.sql poll_tier.sql poll.sql poll_bulk.sql import.sql import_result.sql read.sql pull.sql look.sql html_style.sql html.sql chart.sql report_html.sql reports_html.sql api.sql run.sql worker.sql \
	retry.sql hand_over.sql status.sql grants.sql

REGRESS = settings gate webhook rights export hand_over source trigger event evaluate audience desired conflict inbound pull connection poll_tiers poll_many activity report report_html signal opt_out template campaign campaign_states schedule_times campaign_check target several_sources
ISOLATION = crm_writers opt_out_fixing by_hand campaign_verbs opt_out_sending grants

BUILD ?= build
src_dir := $(patsubst %/,%,$(dir $(realpath $(firstword $(MAKEFILE_LIST)))))

ifeq ($(CURDIR),$(src_dir))

# ------------------------------------------------------------------------------------------------------------
# In the source tree: nothing is built here. Object files beside the sources would be taken for up to date by
# every VPATH build (that is how VPATH works), also those of another compiler or server.
# ------------------------------------------------------------------------------------------------------------

CLANG_FORMAT ?= clang-format-14
C_SOURCES = $(wildcard src/*.c src/*.h)

.DEFAULT_GOAL := all
.PHONY: all install uninstall installcheck clean test demo format format-check lists

all install uninstall installcheck:
	@mkdir -p '$(BUILD)/make'
	$(MAKE) -C '$(BUILD)/make' -f '$(src_dir)/Makefile' $@

clean:
	rm -rf '$(BUILD)'

test:
	@BUILD='$(BUILD)' test/run $(SUITE) $(FILE)

# In a folder of its own: a demo that is kept survives a make test.
demo:
	@BUILD='$(BUILD)/demo' KEEP='$(KEEP)' test/demo/run

format:
	$(CLANG_FORMAT) -i $(C_SOURCES)

format-check:
	@for file in $(C_SOURCES); do \
	  $(CLANG_FORMAT) $$file | cmp -s $$file - || { echo "$$file: not formatted; make format does it"; bad=1; }; \
	done; exit $${bad:-0}

# A file that nobody listed is not built or not run, and nobody notices.
lists:
	@unlisted() { \
	  test "$$(printf '%s\n' $$2 | sort)" = "$$(printf '%s\n' $$3 | sort)" || \
	    { echo "Makefile: $$1 differs from the files:"; printf '%s\n' $$2 $$3 | sort | uniq -u; bad=1; }; }; \
	unlisted C_FILES '$(C_FILES)' '$(patsubst src/%,%,$(wildcard src/*.c))'; \
	unlisted SQL_FILES '$(SQL_FILES)' '$(patsubst sql/%,%,$(filter-out sql/mailchimp_sync--%,$(wildcard sql/*.sql)))'; \
	unlisted REGRESS '$(REGRESS)' '$(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql))'; \
	unlisted ISOLATION '$(ISOLATION)' '$(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec))'; \
	exit $${bad:-0}

else

# ------------------------------------------------------------------------------------------------------------
# In a build folder (a VPATH build, what packagers do too): the ordinary PGXS Makefile.
# ------------------------------------------------------------------------------------------------------------

PG_CONFIG ?= pg_config
VPATH := $(src_dir)

server := $(shell $(PG_CONFIG) --version)
ifeq (,$(shell test "$$(echo '$(server)' | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')" -ge 14 2>&- && echo recent))
$(error mailchimp_sync needs PostgreSQL 14 or later; $(PG_CONFIG) is of $(or $(server),none))
endif

EXTENSION = mailchimp_sync
MODULE_big = mailchimp_sync
OBJS = $(C_FILES:%.c=src/%.o)
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(src_dir)/mailchimp_sync.control)
DATA_built = mailchimp_sync--$(EXTVERSION).sql
EXTRA_CLEAN = src/*.d expected output_iso

LIBRARIES = libcurl libcjson
SHLIB_LINK = $(shell pkg-config --libs $(LIBRARIES) 2>/dev/null || echo -lcurl -lcjson)

# The server's and the libraries' headers are system headers to us, so that only our own code warns. PG_FUNCTION_ARGS
# and callbacks have arguments that not everyone needs, and {0} or a list's closing {NULL} are usual in PostgreSQL.
# WERROR=-Werror is for make test: a newer compiler's new warning shall not break a user's build.
override PG_CPPFLAGS += -isystem $(shell $(PG_CONFIG) --includedir-server) \
	$(patsubst -I%,-isystem %,$(shell pkg-config --cflags $(LIBRARIES) 2>/dev/null))
override PG_CFLAGS += -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers $(WERROR) -MMD -MP
ifneq (,$(findstring clang,$(CC)))
# The flags come from pg_config, and the server was built with gcc.
override PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument
endif

# No bitcode: it serves to inline tiny functions into expressions, which we do not have.
override with_llvm = no

# Up to 15 pg_regress wants the outputs below the folder where it writes, from 16 on below the current one.
REGRESS_OPTS = --inputdir=$(src_dir)/test
ISOLATION_OPTS = --inputdir=$(src_dir)/test --outputdir=output_iso
REGRESS_PREP = expected_links

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

-include $(OBJS:.o=.d)

# PGXS declares everything .SECONDARY: an object that is missing, because its file is new in the list, would not be
# made if the library is younger than that file.
$(OBJS): Makefile | $(CURDIR)/src
$(CURDIR)/src:
	mkdir -p $@

$(DATA_built): $(SQL_FILES:%=sql/%) mailchimp_sync.control Makefile
	printf '%s\n' '\echo Use "CREATE EXTENSION mailchimp_sync" to load this file. \quit' >$@.new
	for f in $(SQL_FILES:%=$(src_dir)/sql/%); do echo; cat "$$f" || exit 1; done >>$@.new
	mv $@.new $@

.PHONY: expected_links
expected_links:
	mkdir -p output_iso
	ln -sfn $(src_dir)/expected expected
	ln -sfn $(src_dir)/expected output_iso/expected

endif
