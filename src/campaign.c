/*-------------------------------------------------------------------------
 *
 * campaign.c
 *	  What came back from a request on a campaign's way (see send.sql).
 *
 * The way itself is rows: this file reads the answer to each kind of request
 * and hands it to the one function that knows what it means. Nothing is
 * remembered here, so a crash loses nothing but an answer, and that is doubt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "account.h"
#include "adopt.h"
#include "compat.h"
#include "engine.h"
#include "mailchimp_sync.h"

/* What every answer is about. */
typedef struct Answer
{
	const char *connection;
	const cJSON *json;
	McArg inflight;
	McArg campaign;
	McArg step;
	McArg started_at;
} Answer;

static const cJSON *
member(const cJSON *object, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(object, name);
}

static void
domain_answered(const Answer *a)
{
	mc_account_store_part(MC_DOMAINS, a->connection, NULL, mc_account_rows(MC_DOMAINS, a->json));
	MC_SQL("SELECT mailchimp_sync.domain_done($1)", a->campaign);
}

static void
template_answered(const Answer *a)
{
	/* an array around what the reply owns, which nobody has to free */
	const cJSON one = {.type = cJSON_Array, .child = (cJSON *) a->json};

	(void) mc_json_needed(mc_json_int8_arg(a->json, "id"), "id");
	mc_account_store_rows(MC_TEMPLATES, a->connection, NULL, &one);
	MC_SQL("SELECT mailchimp_sync.template_done($1)", a->campaign);
}

static void
segment_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.segment_done($1, $2)", a->campaign,
		   mc_json_needed(mc_json_int8_arg(a->json, "id"), "id"));
}

static void
find_segment_answered(const Answer *a)
{
	const cJSON *segments = mc_json_needed_array(a->json, "segments");

	MC_SQL("SELECT mailchimp_sync.find_segment_done($1, $2, $3, $4)", a->campaign, a->started_at,
		   mc_json_column(segments, "id"), mc_json_column(segments, "name"));
}

static void
fill_answered(const Answer *a)
{
	const cJSON *errors = mc_json_needed_array(a->json, "errors");

	MC_SQL("SELECT mailchimp_sync.fill_done($1, $2, $3, $4)", a->inflight, a->campaign,
		   mc_json_column(errors, "email_addresses"), mc_json_column(errors, "error"));
}

static void
remove_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.remove_done($1, $2)", a->inflight, a->campaign);
}

static void
create_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.create_done($1, $2, $3)", a->campaign,
		   mc_json_needed(mc_json_text_arg(a->json, "id"), "id"),
		   mc_json_int8_arg(a->json, "web_id"));
}

static void
find_campaign_answered(const Answer *a)
{
	const cJSON *campaigns = mc_json_needed_array(a->json, "campaigns");

	MC_SQL("SELECT mailchimp_sync.find_campaign_done($1, $2, $3, $4, $5, $6, $7)", a->campaign,
		   a->started_at, mc_json_column(campaigns, "id"), mc_json_column(campaigns, "web_id"),
		   mc_json_column(campaigns, "status"), mc_json_column(campaigns, "settings.title"),
		   mc_json_column(campaigns, "recipients.segment_opts.saved_segment_id"));
}

static void
settings_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.settings_done($1)", a->campaign);
}

static void
content_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.content_done($1)", a->campaign);
}

static void
look_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.look_done($1, $2, $3, "
		   "mailchimp_sync.as_shown($4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14))",
		   a->campaign, a->step, a->started_at, MC_SHOWN(a->json));
}

static void
correct_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.correct_done($1, "
		   "mailchimp_sync.as_shown($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12))",
		   a->campaign, MC_SHOWN(a->json));
}

static void
walk_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.walk_done($1, $2)", a->campaign,
		   mc_json_column(mc_json_needed_array(a->json, "members"), "id"));
}

static void
checklist_answered(const Answer *a)
{
	const cJSON *items = member(a->json, "items");

	MC_SQL("SELECT mailchimp_sync.checklist_done($1, $2, $3, $4, $5)", a->campaign,
		   mc_arg_bool(cJSON_IsTrue(member(a->json, "is_ready"))), mc_json_column(items, "type"),
		   mc_json_column(items, "heading"), mc_json_column(items, "details"));
}

static void
send_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.send_done($1)", a->campaign);
}

static void
schedule_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.schedule_done($1)", a->campaign);
}

static void
unschedule_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.unschedule_done($1)", a->campaign);
}

static void
renew_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.renew_done($1)", a->campaign);
}

static void
sent_to_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "sent_to");

	MC_SQL("SELECT mailchimp_sync.sent_to_done($1, $2, $3)", a->campaign,
		   mc_json_column(rows, "email_id"), mc_json_column(rows, "email_address"));
}

static void
find_tags_answered(const Answer *a)
{
	const cJSON *tags = mc_json_needed_array(a->json, "tags");

	MC_SQL("SELECT mailchimp_sync.find_tags_done($1, $2, $3)", a->campaign,
		   mc_json_column(tags, "id"), mc_json_column(tags, "name"));
}

static void
tagged_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.tag_members_done($1, $2, $3)", a->campaign, a->started_at,
		   mc_json_column(mc_json_needed_array(a->json, "members"), "id"));
}

static void
foreign_answered(const Answer *a)
{
	const cJSON *members = mc_json_needed_array(a->json, "members");

	MC_SQL("SELECT mailchimp_sync.foreign_members_done($1, $2, $3, $4, $5)", a->campaign,
		   a->started_at, mc_json_column(members, "id"), mc_json_column(members, "email_address"),
		   mc_json_column(members, "contact_id"));
}

static void
drop_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.drop_done($1, $2)", a->campaign, a->step);
}

/* One line for each step of campaign_steps() that asks Mailchimp. */
static const struct
{
	const char *step;
	void (*answered)(const Answer *a);
} steps[] = {
	{"domain", domain_answered},	   {"template", template_answered},
	{"segment", segment_answered},	   {"find_segment", find_segment_answered},
	{"remove", remove_answered},	   {"fill", fill_answered},
	{"create", create_answered},	   {"find_campaign", find_campaign_answered},
	{"settings", settings_answered},   {"content", content_answered},
	{"count", look_answered},		   {"walk", walk_answered},
	{"checklist", checklist_answered}, {"send", send_answered},
	{"look", look_answered},		   {"sent", look_answered},
	{"recall", look_answered},		   {"drop_campaign", drop_answered},
	{"schedule", schedule_answered},   {"unschedule", unschedule_answered},
	{"drop_segment", drop_answered},   {"renew", renew_answered},
	{"sent_to", sent_to_answered},	   {"find_tags", find_tags_answered},
	{"tag_members", tagged_answered},  {"foreign_members", foreign_answered},
	{"correct", correct_answered},
};

static Answer
read_answer(const McUnit *unit)
{
	Answer a = {.connection = unit->connection, .json = unit->reply->json};

	if (MC_SQL("SELECT f.campaign_id FROM mailchimp_sync.inflight f WHERE f.inflight_id = $1",
			   mc_arg_int8(unit->inflight_id)) == 0)
		elog(ERROR, "request " INT64_FORMAT " is not in flight", unit->inflight_id);
	a.inflight = mc_arg_int8(unit->inflight_id);
	a.campaign = mc_arg_int8(mc_result_int8(0, 1, NULL));
	a.step = mc_arg_text(unit->phase);
	a.started_at = mc_arg_time(unit->started_at);
	return a;
}

static void
campaign_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	Answer a = read_answer(unit);

	if (reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.campaign_refused($1, $2, $3, $4, $5)", a.campaign, a.step,
			   mc_arg_int4(reply->status), mc_arg_text(reply->title), mc_arg_text(reply->detail));
		return;
	}
	for (size_t i = 0; i < lengthof(steps); i++)
		if (strcmp(steps[i].step, unit->phase) == 0)
		{
			steps[i].answered(&a);
			return;
		}
	elog(ERROR, "campaign step \"%s\" has no line in the table of answers", unit->phase);
}

const McKind mc_campaign_kind = {
	.name = "campaign", .spare = 0, .may_be_forbidden = true, .apply = campaign_apply};
