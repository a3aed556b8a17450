/*-------------------------------------------------------------------------
 *
 * poll.c
 *	  What came back from a request for results (see poll.sql, activity.sql,
 *	  machine.sql and report.sql).
 *
 * Nothing is remembered here: which pages there are, and which of them are
 * done, are rows, and what a page holds is stored so that storing it again
 * changes nothing. A crash loses an answer, and the page is asked for again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "adopt.h"
#include "engine.h"
#include "mailchimp_sync.h"

/* What every answer is about. */
typedef struct Answer
{
	const cJSON *json;
	McArg campaign;
	McArg walk;
	McArg offset;
	McArg started_at;
} Answer;

static void
page_seen(const Answer *a, const cJSON *rows)
{
	MC_SQL("SELECT mailchimp_sync.page_seen($1, $2, $3, $4)", a->campaign, a->walk, a->offset,
		   mc_arg_int8(cJSON_GetArraySize(rows)));
}

static void
report_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.report_seen($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8::jsonb)",
		   a->campaign, a->started_at,
		   mc_json_needed(mc_json_int8_arg(a->json, "emails_sent"), "emails_sent"),
		   mc_json_int8_arg(a->json, "unsubscribed"), mc_json_int8_arg(a->json, "abuse_reports"),
		   mc_json_text_arg(a->json, "bounces"), mc_json_text_arg(a->json, "opens"),
		   mc_json_text_arg(a->json, "clicks"));
}

static void
state_answered(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.state_seen($1, $2, "
		   "mailchimp_sync.as_shown($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13))",
		   a->campaign, a->started_at, MC_SHOWN(a->json));
}

static void
activity_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "emails");

	MC_SQL("SELECT mailchimp_sync.activities_seen($1, $2, $3, $4)", a->campaign,
		   mc_json_column(rows, "email_id"), mc_json_column(rows, "email_address"),
		   mc_json_column(rows, "activity"));
	page_seen(a, rows);
}

static void
unsubscribed_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "unsubscribes");

	MC_SQL("SELECT mailchimp_sync.unsubscribes_seen($1, $2, $3, $4, $5, false)", a->campaign,
		   mc_json_column(rows, "email_id"), mc_json_column(rows, "email_address"),
		   mc_json_column(rows, "timestamp"), mc_json_column(rows, "reason"));
	page_seen(a, rows);
}

static void
abuse_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "abuse_reports");

	MC_SQL("SELECT mailchimp_sync.unsubscribes_seen($1, $2, $3, $4, '{}', true)", a->campaign,
		   mc_json_column(rows, "email_id"), mc_json_column(rows, "email_address"),
		   mc_json_column(rows, "date"));
	page_seen(a, rows);
}

static void
links_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "urls_clicked");

	MC_SQL("SELECT mailchimp_sync.links_seen($1, $2, $3, $4::bigint[], $5::bigint[], $6)",
		   a->campaign, mc_json_column(rows, "id"), mc_json_column(rows, "url"),
		   mc_json_column(rows, "total_clicks"), mc_json_column(rows, "unique_clicks"),
		   mc_json_column(rows, "last_click"));
	page_seen(a, rows);
}

static void
opens_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "members");

	MC_SQL("SELECT mailchimp_sync.opens_seen($1, $2, $3)", a->campaign,
		   mc_json_column(rows, "email_id"), mc_json_column(rows, "opens"));
	page_seen(a, rows);
}

static void
human_links_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "urls_clicked");

	MC_SQL("SELECT mailchimp_sync.human_links_seen($1, $2, $3::bigint[])", a->campaign,
		   mc_json_column(rows, "id"), mc_json_column(rows, "total_clicks"));
	page_seen(a, rows);
}

static void
human_clicks_answered(const Answer *a)
{
	const cJSON *rows = mc_json_needed_array(a->json, "emails");

	MC_SQL("SELECT mailchimp_sync.human_clicks_seen($1, $2, $3, $4)", a->campaign, a->offset,
		   mc_json_column(rows, "email_id"), mc_json_column(rows, "activity"));
	page_seen(a, rows);
}

/* One line for each request of poll_path(). */
static const struct
{
	const char *walk;
	void (*answered)(const Answer *a);
} walks[] = {
	{"report", report_answered},
	{"state", state_answered},
	{"activity", activity_answered},
	{"unsubscribed", unsubscribed_answered},
	{"abuse", abuse_answered},
	{"links", links_answered},
	{"opens", opens_answered},
	{"human_links", human_links_answered},
	{"human_clicks", human_clicks_answered},
};

/* The totals of many campaigns (poll_bulk.sql); the answer is about no one of them. */
static void
reports_answered(const McUnit *unit)
{
	const cJSON *rows;

	if (unit->reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.reports_refused($1, NULL)", mc_arg_int8(unit->inflight_id));
		return;
	}
	rows = mc_json_needed_array(unit->reply->json, "reports");
	MC_SQL("SELECT mailchimp_sync.reports_seen($1, $2, $3, $4, $5, $6, $7, $8, $9)",
		   mc_arg_int8(unit->inflight_id), mc_arg_time(unit->started_at),
		   mc_json_column(rows, "id"), mc_json_column(rows, "emails_sent"),
		   mc_json_column(rows, "unsubscribed"), mc_json_column(rows, "abuse_reports"),
		   mc_json_column(rows, "bounces"), mc_json_column(rows, "opens"),
		   mc_json_column(rows, "clicks"));
}

static Answer
read_answer(const McUnit *unit)
{
	Answer a = {.json = unit->reply->json};

	if (MC_SQL("SELECT f.campaign_id, f.versions[1] FROM mailchimp_sync.inflight f "
			   "WHERE f.inflight_id = $1",
			   mc_arg_int8(unit->inflight_id)) == 0)
		elog(ERROR, "request " INT64_FORMAT " is not in flight", unit->inflight_id);
	a.campaign = mc_arg_int8(mc_result_int8(0, 1, NULL));
	a.offset = mc_arg_int8(mc_result_int8(0, 2, NULL));
	a.walk = mc_arg_text(unit->phase);
	a.started_at = mc_arg_time(unit->started_at);
	return a;
}

static void
poll_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	Answer a;

	if (strcmp(unit->phase, "reports") == 0)
	{
		reports_answered(unit);
		return;
	}
	a = read_answer(unit);
	if (reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.poll_refused($1, $2, $3, $4, $5, $6)", a.campaign, a.walk,
			   a.started_at, mc_arg_int4(reply->status), mc_arg_text(reply->title),
			   mc_arg_text(reply->detail));
		return;
	}
	for (size_t i = 0; i < lengthof(walks); i++)
		if (strcmp(walks[i].walk, unit->phase) == 0)
		{
			walks[i].answered(&a);
			return;
		}
	elog(ERROR, "request \"%s\" of a poll has no line in the table of answers", unit->phase);
}

const McKind mc_poll_kind = {.name = "poll", .spare = MC_SPARE_BACKGROUND, .apply = poll_apply};
