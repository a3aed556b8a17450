/*-------------------------------------------------------------------------
 *
 * import.c
 *	  A page of the campaigns that an account has (see import.sql).
 *
 * Which page is the next is a row, so a crash loses an answer, and the page is asked for again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
import_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	const cJSON *rows;

	if (reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.import_failed($1, 'answered', $2, $3, NULL)",
			   mc_arg_int8(unit->inflight_id), mc_arg_text(reply->title),
			   mc_arg_text(reply->detail));
		return;
	}
	/* a short page ends the walk, so what is no page must not pass for an empty one */
	rows = mc_json_needed_array(reply->json, "campaigns");
	MC_SQL(
		"SELECT mailchimp_sync.import_page_seen($1, $2, mailchimp_sync.import_lines($3, $4, $5, $6, "
		"$7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18))",
		mc_arg_int8(unit->inflight_id), mc_arg_time(unit->started_at), mc_json_column(rows, "id"),
		mc_json_column(rows, "web_id"), mc_json_column(rows, "type"),
		mc_json_column(rows, "create_time"), mc_json_column(rows, "archive_url"),
		mc_json_column(rows, "status"), mc_json_column(rows, "emails_sent"),
		mc_json_column(rows, "send_time"), mc_json_column(rows, "recipients.list_id"),
		mc_json_column(rows, "recipients.recipient_count"),
		mc_json_column(rows, "recipients.segment_opts.saved_segment_id"),
		mc_json_column(rows, "settings.title"), mc_json_column(rows, "settings.subject_line"),
		mc_json_column(rows, "settings.from_name"), mc_json_column(rows, "settings.reply_to"),
		mc_json_column(rows, "settings.template_id"));
}

const McKind mc_import_kind = {
	.name = "import", .spare = MC_SPARE_BACKGROUND, .apply = import_apply};
