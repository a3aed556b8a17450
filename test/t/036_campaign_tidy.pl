# The segment of a campaign that was sent is removed again at Mailchimp after seven days: it is a tag on each of
# its recipients (design.md rules 6 and 13): once, only of campaigns that were sent, whatever Mailchimp answers, beside people
# who delete the campaign at that moment, and in a copy of the database (R35, N3).

use strict;
use warnings;
use McCampaign;
use JSON::PP;
use McTest;
use Test::More;

use constant DAY => 86400;

my $crm = McCampaign->start(people => 4);
my ($sim, $node) = @$crm{qw(sim node)};

$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });

sub sent
{
	my ($name) = @_;
	my $campaign = $crm->campaign($name, '{1,2}');
	$crm->mia("SELECT mc_send_campaign($campaign)");
	$crm->wait_status($campaign, 'sent');
	return $campaign;
}

sub own { return $crm->super("SELECT $_[1] FROM mailchimp_sync.campaign WHERE campaign_id = $_[0]") }

# the requests that removed this segment, or tried to
sub removals
{
	my ($segment) = @_;
	return scalar grep { $_->{path} =~ m{^/lists/$crm->{list}/segments/$segment$} } $sim->journal(method => 'DELETE');
}

# all that is due was done
sub run_out { $crm->mia('CALL mc_run()') }

# ---- after seven days and not before, once

my $spring = sent('Spring');
my $summer = sent('Summer');
my %segment = map { $_ => own($_, 'segment_id') } $spring, $summer;
my $prepared = $crm->campaign('Prepared', '{1,3}');
$crm->mia("SELECT mc_prepare_campaign($prepared)");
$crm->wait_status($prepared, 'prepared');
my $failed = $crm->campaign('Failed', '{1,3}');
$crm->mia("SELECT mc_alter_campaign($failed, '{\"template\": \"Unfinished\"}'), mc_send_campaign($failed)");
$crm->wait_status($failed, 'failed');
is(own($spring, "tidy_at - next_poll_at BETWEEN '6 days' AND '7 days 1 hour'"), 't', 'seven days after it was seen to be sent');
is($crm->super("SELECT mailchimp_sync.campaign_due() = min(tidy_at) FROM mailchimp_sync.campaign"), 't', 'an engine with nothing else to do wakes up for it');
$crm->later(6 * DAY);
run_out();
is(scalar($sim->journal(method => 'DELETE')), 0, 'not after six days');
$crm->later(DAY);
run_out();
is(removals($segment{$spring}), 1, 'after seven');
is(removals($segment{$summer}), 1, 'each of them');
is($crm->remains('Spring'), 'campaigns 1 sends 1 segments 0 p1@example.org=1 p2@example.org=1', 'the campaign stays at Mailchimp');
is($crm->recipients($spring), '1 sent, 2 sent', 'and here');
is(own($spring, 'segment_id IS NULL AND goal IS NULL AND step IS NULL AND last_error IS NULL'), 't', 'nothing is left to do');
$crm->later(30 * DAY);
run_out();
is(scalar($sim->journal(method => 'DELETE')), 2, 'nothing else is removed');
is($crm->remains('Prepared') . ', ' . $crm->remains('Failed'), 'campaigns 1 sends 0 segments 1, campaigns 1 sends 0 segments 1',
	'campaigns that were not sent keep theirs');
is($crm->super('SELECT mailchimp_sync.campaign_due()'), '', 'and nothing is due');
$crm->mia("SELECT mc_delete_campaign($spring)");
$crm->wait_status($spring, 'deleted');
is($crm->remains('Spring'), 'campaigns 0 sends 0 segments 0', 'it can be deleted afterwards (R35)');

# ---- refused: a day of rest; the next one gets its turn

my ($first, $second) = (sent('First'), sent('Second'));
%segment = map { $_ => own($_, 'segment_id') } $first, $second;
$sim->fault(method => 'DELETE', path => "/segments/$segment{$first}\$", fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->later(7 * DAY + 60);
run_out();
is(join(' ', map { removals($segment{$_}) } $first, $second), '1 1', 'refused once, and the other one removed');
is($crm->mia("SELECT count(*) FROM mc_failure WHERE work = 'campaign' AND campaign_id = $first AND next_attempt_at > last_failed_at + interval '20 hours'"),
	1, 'mc_failure says why, and when it is tried again');
is(own($first, 'status'), 'sent', 'the campaign is sent all the same');
$crm->later(2 * DAY);
run_out();
is(removals($segment{$first}), 2, 'and removed the next time');
is($crm->mia("SELECT count(*) FROM mc_failure WHERE campaign_id = $first"), 0, 'no failure is left');

# ---- no answer, though it was removed; and one that people removed themselves

my ($doubtful, $gone) = (sent('Doubtful'), sent('Gone'));
%segment = map { $_ => own($_, 'segment_id') } $doubtful, $gone;
$sim->fault(method => 'DELETE', path => "/segments/$segment{$doubtful}\$", fault => 'reset_after');
$sim->post('/_sim/act', { list => $crm->{list}, action => 'delete_segment', segment => 0 + $segment{$gone} });
$crm->later(7 * DAY + 60);
McTest::poll('both segments to be done with', sub {
	run_out();
	$crm->later(10);
	return own($doubtful, 'segment_id IS NULL') eq 't' && own($gone, 'segment_id IS NULL') eq 't';
});
is(join(' ', map { removals($segment{$_}) } $doubtful, $gone), '2 1', 'asked again after doubt; what is not there is done');
is($crm->mia("SELECT count(*) FROM mc_failure WHERE campaign_id IN ($doubtful, $gone)"), 0, 'no failure');

# ---- somebody deletes the campaign while the request is under way: all of it is deleted

my $deleted = sent('Deleted');
my $dump = $crm->dump;
$sim->hold(method => 'DELETE', path => '/segments/\d+$', when => 'before');
$crm->later(7 * DAY + 60);
$sim->wait_held;
$crm->mia("SELECT mc_delete_campaign($deleted)");
$sim->release;
$crm->wait_status($deleted, 'deleted');
is($crm->remains('Deleted'), 'campaigns 0 sends 0 segments 0', 'deleted while its segment was being removed');

# ---- a copy of the database from before that

$crm->stop_engine;
my $copy = $crm->restore($dump, 'copy');
is($copy->super('SELECT mailchimp_sync.campaign_due()'), '', 'a copy removes nothing');
$copy->super('SELECT mc_resume()');
$copy->run_engine;
McTest::poll('the copy to find it gone', sub { $copy->super("SELECT segment_id IS NULL FROM mailchimp_sync.campaign WHERE campaign_id = $deleted") eq 't' });
is($copy->mia("SELECT count(*) FROM mc_failure WHERE campaign_id = $deleted"), 0, 'once it is the real one it finds that it is gone');
is($crm->remains('Prepared'), 'campaigns 1 sends 0 segments 1', 'and removes nothing else');
$copy->stop_engine;

$node->stop;
done_testing();
