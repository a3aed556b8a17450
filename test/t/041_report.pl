# What people did with a campaign, as the report shows it: every figure, list and status equals what the simulator knows
# to have happened, at several instants of the campaign's life (R37, R39-R45, R48, R49, R99-R108, D4, D17, N7). The
# single rules of storing are in sql/report.sql, when and how things are fetched in 040_poll.pl.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 80);
my ($node, $sim) = @$crm{qw(node sim)};
$crm->sync;

sub send_to
{
	my ($name, $keys) = @_;
	my $id = $crm->max("SELECT mc_create_campaign('$name', 'people', 'Newsletter', 'Max', 'max\@example.org')");
	$crm->max("SELECT mc_add_recipients($id, 'candidate', $keys)");
	$crm->max("SELECT mc_send_campaign($id)");
	$crm->run;
	is($crm->rita("SELECT status FROM mc_campaign WHERE campaign_id = $id"), 'sent', "$name is sent");
	return ($id, $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $id"));
}

# Candidate 1 opted out, 2 has no usable address: both are skipped.
$crm->max("SELECT mc_opt_out('candidate', 1)");
$crm->ann("UPDATE crm.candidate SET email = 'nobody' WHERE id = 2");
my ($id, $mailchimp_id) = send_to('Spring', '(SELECT array_agg(i) FROM generate_series(1, 80) i)');

is($crm->rita("SELECT name, status, recipients, skipped, emails_sent, total_opened, unique_opened, total_clicked, unique_clicked,
	soft_bounces, hard_bounces, unsubscribed, complaints, open_rate, click_rate, recorded_opened, recorded_clicked,
	polled_at IS NOT NULL, report_url ~ '^https://us1.admin.mailchimp.com/reports/summary\\?id=\\d+\$' FROM mc_report"),
	'Spring|sent|78|2|78|0|0|0|0|0|0|0|0|0.00|0.00|0|0|t|t', 'R37, R104, R107: a short report right after sending');

$sim->post('/_sim/engage', { campaign => $mailchimp_id, seed => 7, opens => 0.5, clicks => 0.3, hard => 0.05, soft => 0.05,
	unsubscribes => 0.06, abuse => 0.03, machine_opens => 0.3, bot_clicks => 0.1, span_seconds => 86400 });

# -----------------------------------------------------------------------------------------------------------------
# Ours and theirs, in the same words
# -----------------------------------------------------------------------------------------------------------------

sub truth { my (%at) = @_; return $sim->get("/_sim/truth/$mailchimp_id", %at) }

# Lines of a query, with the columns between blanks.
sub lines { my ($sql) = @_; return join "\n", sort split /\n/, $crm->rita($sql) =~ tr/|/ /r }

sub list { my ($format, @rows) = @_; return join "\n", sort map { $format->($_) } @rows }

sub percent { my ($part, $whole) = @_; return sprintf '%.2f', 100 * $part / $whole }

sub instant { my ($column) = @_; return "to_char($column AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS+00:00')" }

sub compare
{
	my ($when) = @_;
	my $t = truth();

	is(lines("SELECT emails_sent, total_opened, unique_opened, total_clicked, unique_clicked, hard_bounces, soft_bounces,
		unsubscribed, complaints, open_rate, click_rate, machine_opened, machine_clicked, human_opened, human_open_rate, recorded_opened,
		recorded_clicked, coalesce(note, 'the same') FROM mc_report WHERE campaign_id = $id"),
		join(' ', $t->{emails_sent}, $t->{opens}{total}, $t->{opens}{unique}, $t->{clicks}{total}, $t->{clicks}{unique},
			$t->{hard_bounces}, $t->{soft_bounces}, $t->{unsubscribed}, $t->{complaints}, percent($t->{opens}{unique}, $t->{delivered}),
			percent($t->{clicks}{unique}, $t->{delivered}), $t->{opens}{total} - $t->{opens}{human_total},
			$t->{clicks}{total} - $t->{clicks}{human_total}, $t->{opens}{human_unique}, percent($t->{opens}{human_unique}, $t->{delivered}),
			$t->{opens}{total}, $t->{clicks}{total}, 'the same'), "$when: the figures (R100-R108, D17)");
	is(lines("SELECT email, opens, machine FROM mc_report_openers($id)"),
		list(sub { "$_[0]{email} $_[0]{opens} " . ($_[0]{opens} - $_[0]{human_opens}) }, grep { $_->{opens} } @{ $t->{persons} }),
		"$when: who opened, how often (R100), how often a machine did (D17)");
	is(lines("SELECT email, clicks, machine FROM mc_report_clickers($id)"),
		list(sub { "$_[0]{email} $_[0]{clicks} " . ($_[0]{clicks} - $_[0]{human_clicks}) }, grep { $_->{clicks} } @{ $t->{persons} }),
		"$when: who clicked, how often, how often a machine did");
	is(lines("SELECT url, clicks, unique_clicks FROM mc_report_links($id) WHERE clicks > 0"),
		list(sub { "$_[0]{url} $_[0]{total} $_[0]{unique}" }, @{ $t->{links} }), "$when: how often each link (R101)");
	for my $type (qw(hard soft))
	{
		is(lines("SELECT email, bounce_type, " . instant('occurred_at') . " FROM mc_report_bounces($id, '$type')"),
			list(sub { "$_[0]{email} $_[0]{type} $_[0]{at}" }, grep { $_->{type} eq $type } @{ $t->{bounces} }),
			"$when: $type bounces (R102, R103)");
	}
	is(lines("SELECT email, " . instant('occurred_at') . ", reason FROM mc_activity WHERE campaign_id = $id AND type = 'unsubscribed'"),
		list(sub { "$_[0]{email} $_[0]{at} " . ($_[0]{reason} // 'abuse complaint') }, @{ $t->{unsubscribes} }, @{ $t->{complaints_by} }),
		"$when: who left, and why");
	is(lines("SELECT email, status FROM mc_campaign_recipient WHERE campaign_id = $id AND status <> 'skipped'"),
		list(sub { "$_[0]{email} $_[0]{status}" }, @{ $t->{persons} }), "$when: one status each (R43, R44)");
	is(lines("SELECT email FROM mc_group_member WHERE origin = 'mailchimp'"),
		list(sub { $_[0]{email} }, @{ $t->{unsubscribes} }, @{ $t->{complaints_by} }), "$when: they are in the opt-out group (R45)");
}

sub total { my $t = truth(@_); return $t->{opens}{total} + $t->{clicks}{total} + $t->{unsubscribed} + $t->{complaints} + @{ $t->{bounces} } }

sub stamp { my ($time) = @_; my @t = gmtime $time; return POSIX::strftime('%Y-%m-%dT%H:%M:%S+00:00', @t) }

# Goes on by at least so many seconds to where a minute follows in which nobody does anything, so that the moment of asking
# makes no difference.
sub quiet_later
{
	my ($seconds) = @_;
	my $now = time + $crm->{later};

	$seconds += 20 while total(at => stamp($now + $seconds - 5)) != total(at => stamp($now + $seconds + 60));
	$crm->later($seconds);
}

my $previous = 0;
for my $step ([ 'ten minutes', 600 ], [ 'an hour and a half', 4800 ], [ 'five hours', 12600 ], [ 'a day', 70000 ], [ 'two days', 90000 ])
{
	my ($when, $seconds) = @$step;
	quiet_later($seconds);
	$crm->run;
	compare($when);
	my $total = total();
	cmp_ok($total, '>', $previous, "$when: more has happened") if $when ne 'two days';
	$previous = $total;
}
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nothing failed');

# -----------------------------------------------------------------------------------------------------------------
# What follows
# -----------------------------------------------------------------------------------------------------------------

is($crm->rita("SELECT count(*) FROM mc_activity a WHERE source IS NULL OR title <> 'Spring' OR mailchimp_campaign_id <> '$mailchimp_id'
	OR NOT EXISTS (SELECT FROM mc_campaign_recipient r WHERE r.campaign_id = a.campaign_id AND r.contact_key = a.contact_key)"), 0,
	'R40-R42: every activity has its campaign and its person');
is($crm->ann("SELECT count(*) FROM crm.candidate c JOIN mc_activity a ON a.source = 'candidate' AND a.contact_key = c.id::text"),
	$crm->rita('SELECT count(*) FROM mc_activity'), 'N7: and joins with the CRM');
is($crm->rita('SELECT count(*) FROM mc_activity WHERE ip IS NOT NULL'), 0, 'no address of a computer is kept');

# Two opens in one second are two; ip only where the site says so.
$crm->setting('store_ip', 'on');
my ($opener) = split /\n/, $crm->rita("SELECT email FROM mc_campaign_recipient WHERE status = 'sent' ORDER BY 1 LIMIT 1");
$sim->post('/_sim/events', { campaign => $mailchimp_id, events => [ map { { email => $opener, action => 'open', ip => '192.0.2.9' } } 1 .. 2 ] });
$crm->later(3 * 3600 + 5);
$crm->run;
compare('after two opens in one second');
is($crm->rita("SELECT opens, first_at = last_at FROM mc_report_openers($id) WHERE email = '$opener'"), '2|t', 'two rows');
is($crm->rita("SELECT DISTINCT ip FROM mc_activity WHERE email = '$opener' AND type = 'opened'"), '192.0.2.9', 'and with the setting its address');

# Who left is never mailed again, not even when selected (R48).
my $left = $crm->rita("SELECT count(*) FROM mc_group_member WHERE origin = 'mailchimp'");
cmp_ok($left, '>', 5, 'some left');
is($crm->rita("SELECT count(*) FROM mc_contact_state s JOIN mc_group_member g USING (source, contact_key) WHERE g.origin = 'mailchimp' AND s.state <> 'opted_out'"),
	0, 'each is opted out');
my ($next, $next_mailchimp_id) = send_to('Summer', '(SELECT array_agg(i) FROM generate_series(1, 80) i)');
my %mailed = map { $_->{email} => 1 } @{ $sim->get('/_sim/mails', campaign => $next_mailchimp_id)->{mails} };
is(join(' ', grep { $mailed{$_} } split /\n/, $crm->rita("SELECT email FROM mc_group_member")), '', 'R48: nobody of the group was mailed');
is($crm->rita("SELECT count(*) FROM mc_campaign_recipient WHERE campaign_id = $next AND skip_reason = 'opted_out'"), $left + 1, 'each is skipped with the reason');

# -----------------------------------------------------------------------------------------------------------------
# How long activities are kept
# -----------------------------------------------------------------------------------------------------------------

sub kept { return $crm->rita("SELECT string_agg(type || ' ' || n, ', ' ORDER BY type) FROM
	(SELECT type, count(*) AS n FROM mc_activity WHERE campaign_id = $id GROUP BY 1) t") }
my $leavers = truth()->{unsubscribed} + truth()->{complaints};
my $statuses = lines("SELECT email, status FROM mc_campaign_recipient WHERE campaign_id = $id");
my $opened = truth()->{opens}{total};

$crm->setting('activity_retention', '1h');
$crm->later(3601);
$crm->run;
is(kept(), "unsubscribed $leavers", 'what is older is forgotten, but for who left');
$sim->post('/_sim/events', { campaign => $mailchimp_id, email => $opener, action => 'open' });
$crm->max("SELECT mc_poll_campaign($id)");
$crm->run;
is(kept(), "opened 1, unsubscribed $leavers", 'and does not come back');
$crm->requests;
$crm->max("SELECT mc_poll_campaign($id)");
$crm->run;
is($crm->requests, 'GET /reports/{campaign_id} 200', 'nor is it asked for again and again');
is($crm->rita("SELECT total_opened, recorded_opened FROM mc_report WHERE campaign_id = $id"), ($opened + 1) . '|1', 'Mailchimp\'s figures stay');
is(lines("SELECT email, status FROM mc_campaign_recipient WHERE campaign_id = $id"), $statuses, 'and statuses');

$node->stop;
done_testing();
